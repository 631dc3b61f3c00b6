"""Captioning: the generator writes the caption of an image, letter by letter."""
