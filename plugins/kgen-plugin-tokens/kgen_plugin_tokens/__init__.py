"""Generators of tokens for kgen: one after the other, all at once, and both combined."""
