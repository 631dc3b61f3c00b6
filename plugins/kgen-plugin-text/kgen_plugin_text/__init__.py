"""Text encoders that are trained together with the generator."""
