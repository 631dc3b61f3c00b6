"""Writes trained parts as folders of diffusers, and run files for such folders."""
