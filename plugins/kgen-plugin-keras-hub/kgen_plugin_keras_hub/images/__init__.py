"""Encoders of images, through KerasHub."""
