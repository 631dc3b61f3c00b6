"""Loggers that send the metrics of kgen's runs to Weights & Biases or MLflow."""
