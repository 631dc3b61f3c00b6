"""Published metrics of generated images."""
