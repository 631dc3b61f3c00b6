"""Published transformers: DiT and PixArt."""
