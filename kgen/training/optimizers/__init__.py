"""The optimizers that a training can use, and the clipping and averaging that kgen adds to each of them."""
