"""Normalising flows with affine couplings for kgen."""
