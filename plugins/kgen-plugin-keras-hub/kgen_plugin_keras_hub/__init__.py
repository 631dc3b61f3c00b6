"""Frozen pretrained text encoders, and Stable Diffusion 3, through KerasHub."""
