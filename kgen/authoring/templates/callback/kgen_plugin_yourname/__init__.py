"""A callback for kgen: it ends a training whose loss no longer falls."""
