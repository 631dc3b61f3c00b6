"""Normalizing flows with affine couplings for kgen."""
