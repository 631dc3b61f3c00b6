"""Loggers that tell Weights & Biases or MLflow of a run of kgen."""
