"""Counting, latency, scores, comparison and reports."""
