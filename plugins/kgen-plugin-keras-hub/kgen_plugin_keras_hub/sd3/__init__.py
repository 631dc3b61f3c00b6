"""Stable Diffusion 3 with KerasHub's models: the text encoders, the MMDiT and the autoencoder (Esser et al. 2024)."""
