"""Evaluation: scores of generated images by metrics, likelihoods, and distances of folders of images."""
