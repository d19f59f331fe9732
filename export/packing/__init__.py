"""Weights stored as bit masks and codes, and the standard operators that rebuild them."""
