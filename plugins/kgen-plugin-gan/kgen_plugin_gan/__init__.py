"""Generative adversarial networks for kgen."""
