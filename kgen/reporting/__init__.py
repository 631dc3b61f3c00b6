"""Pages, plots, and sheets of images."""
