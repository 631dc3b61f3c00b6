"""Statistics and features of real images, to which generated images are compared."""
