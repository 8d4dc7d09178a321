"""Traffic: single requests that arrive at random, gathered into batches and run, and how long each of them took."""
