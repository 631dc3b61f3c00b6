"""Autoencoder decoders for kgen, which turn latents or tokens into images."""
