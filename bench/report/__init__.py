"""Reports on comparisons: tables, plots, and a page that holds them all."""
