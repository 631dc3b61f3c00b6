"""Builds, compares, describes, initializes, freezes and saves the three parts of a pipeline."""
