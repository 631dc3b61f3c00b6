"""YAML -> a checked, frozen configuration of a run."""

from kgen.config.components import ComponentConfig
from kgen.config.run_config import EvaluateConfig, FitConfig, RunConfig, SampleConfig, sampling_options

__all__ = ["ComponentConfig", "EvaluateConfig", "FitConfig", "RunConfig", "SampleConfig", "sampling_options"]
