"""Autoencoders as decoders for kgen: latents or tokens into images."""
