"""Training steps that need less memory, and compute the same gradients."""
