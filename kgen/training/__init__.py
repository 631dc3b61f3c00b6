"""Training by Keras's `fit`: exact resume, distribution over devices, validation, checkpoints and logs."""
