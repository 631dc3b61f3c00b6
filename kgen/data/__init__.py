"""Captioned pictures: kgen's own datasets, and the loader that feeds `fit`."""
