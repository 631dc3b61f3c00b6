"""Frozen pretrained text encoders through KerasHub."""
