"""A contrastive image-text model (CLIP), as an encoder of texts and of images."""
