"""Images that a decoder makes from latents of other images, without the generator."""
