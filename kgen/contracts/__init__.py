"""The contracts of the parts of a pipeline."""
