"""kgen's own datasets of captioned images, the loader for `fit`, and the caches of conditions and latents."""
