"""Diffusion and flow-matching generators for kgen."""
