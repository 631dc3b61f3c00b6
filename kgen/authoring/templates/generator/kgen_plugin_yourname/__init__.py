"""A generator for kgen: a small flow from noise to latents."""
