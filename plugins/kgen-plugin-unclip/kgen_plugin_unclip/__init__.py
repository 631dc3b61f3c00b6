"""DALL-E 2: priors and decoders of CLIP image embeddings, for kgen."""
