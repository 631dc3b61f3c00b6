"""Image encoders that are trained together with the generator."""
