"""Registers the plugin's loggers."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    registry.logger("wandb", "kgen_plugin_loggers.weights_and_biases:WandB", summary="Weights & Biases")
    registry.logger("mlflow", "kgen_plugin_loggers.ml_flow:MLflow", summary="MLflow: a server or an SQLite file")
