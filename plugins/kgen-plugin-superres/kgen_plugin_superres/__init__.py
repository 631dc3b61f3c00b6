"""Decoders that turn small pictures into large ones, for kgen."""
