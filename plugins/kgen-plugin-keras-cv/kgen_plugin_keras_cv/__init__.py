"""Stable Diffusion 1 and 2 as models of keras-cv, in parts of kgen."""
