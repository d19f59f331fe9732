"""Exact graph passes, one file each."""
