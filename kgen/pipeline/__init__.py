"""The pipeline: assembly, training losses, sampling, likelihoods, saving and loading."""
