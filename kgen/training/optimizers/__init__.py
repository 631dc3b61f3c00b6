"""The optimizers of a training, by name, and what kgen adds to each of them."""
