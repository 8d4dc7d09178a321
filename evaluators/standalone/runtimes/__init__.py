"""One call of a backend's own runtime, for each backend that needs no paretune to be called."""
