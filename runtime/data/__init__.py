"""Data sets: what can be named, how it is split, how it is read."""
