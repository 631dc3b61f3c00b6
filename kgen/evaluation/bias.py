"""Finds metrics that favor the pipeline that they score."""

from __future__ import annotations

import warnings

from kgen.contracts.encoder import Encoder
from kgen.errors import BiasedMetricWarning
from kgen.experiments.experiment import Metrics
from kgen.plugins.faults import component_errors


def biases(metrics: Metrics, encoder: Encoder) -> list[str]:
    """A sentence about each metric that favors a pipeline with this encoder, without a full stop."""
    found = []
    for name, metric in metrics.items():
        with component_errors(metric):
            if why := metric.bias_towards(encoder):
                found.append(f"{name} is biased: {why}")
    return found


def warn_of_bias(metrics: Metrics, encoder: Encoder) -> None:
    """Warns (`BiasedMetricWarning`) of each metric that favors a pipeline with this encoder."""
    for sentence in biases(metrics, encoder):
        warnings.warn(sentence, BiasedMetricWarning, stacklevel=2)
