"""Caches on disk of the outputs of frozen parts: the latents of a decoder, and the conditions of an encoder."""
