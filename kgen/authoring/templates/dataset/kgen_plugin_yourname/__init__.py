"""A dataset for kgen: images of colored stripes, drawn by a rule."""
