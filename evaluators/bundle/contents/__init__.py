"""What a model file of each format may not contain, read without the runtime that will load it."""
