"""The pruners, one file each."""
