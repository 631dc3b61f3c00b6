"""Decoders that turn small images into large ones, for kgen."""
