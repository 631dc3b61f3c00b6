"""Reads YAML into a validated, frozen configuration of a run."""

from kgen.config.components import ComponentConfig
from kgen.config.run_config import EvaluateConfig, RunConfig, decoding_options, sampling_options
from kgen.config.sections import FitConfig, InitConfig, LikelihoodConfig, SampleConfig
from kgen.config.staged import StagedConfig

__all__ = [
    "ComponentConfig",
    "StagedConfig",
    "EvaluateConfig",
    "FitConfig",
    "InitConfig",
    "LikelihoodConfig",
    "RunConfig",
    "SampleConfig",
    "decoding_options",
    "sampling_options",
]
