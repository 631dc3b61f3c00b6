"""Reads YAML into a validated, frozen configuration of a run."""

from kgen.config.components import ComponentConfig
from kgen.config.decoder import DecoderConfig
from kgen.config.run_config import EvaluateConfig, RunConfig, decoding_options, sampling_options
from kgen.config.sections import FitConfig, InitConfig, LikelihoodConfig, SampleConfig

__all__ = [
    "ComponentConfig",
    "DecoderConfig",
    "EvaluateConfig",
    "FitConfig",
    "InitConfig",
    "LikelihoodConfig",
    "RunConfig",
    "SampleConfig",
    "decoding_options",
    "sampling_options",
]
