"""Statistics and features of the real images with which generated images are compared."""
