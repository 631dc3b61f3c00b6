"""Captioned images: kgen's own datasets, and the loader that feeds `fit`."""
