"""Channel liveness: which channels of a graph are constant, which are needed, and their removal."""
