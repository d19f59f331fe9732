"""The models that recipes can name."""
