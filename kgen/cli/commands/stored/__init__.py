"""The commands that work with the stored weights of a run."""
