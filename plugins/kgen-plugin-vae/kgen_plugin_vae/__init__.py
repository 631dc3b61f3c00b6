"""Variational autoencoders for kgen."""
