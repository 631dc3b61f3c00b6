"""Pretrained encoders of texts and images, and Stable Diffusion 3, through KerasHub."""
