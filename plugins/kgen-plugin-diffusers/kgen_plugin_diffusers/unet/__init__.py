"""A published U-Net, as a network of `diffusion/diffusion`."""
