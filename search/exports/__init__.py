"""Exports: a bundle as a serving system takes it. Adding a format is one file, and a word in ``registry``."""
