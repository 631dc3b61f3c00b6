"""A decoder for kgen: a small autoencoder of patches."""
