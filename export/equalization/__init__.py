"""Cross-layer equalization: which channels can be scaled together, and by how much."""
