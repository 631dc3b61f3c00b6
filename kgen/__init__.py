"""kgen: assemble, train and compare generative image models from plugins.

This module holds the public names. Importing it loads no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kgen.errors import ConfigError, DataError, KgenError, PluginError, RunError, SpaceError
from kgen.plugins.hookspecs import API, hookimpl
from kgen.plugins.registry import Registrar
from kgen.spaces import ConditionSpace, Space

if TYPE_CHECKING:
    from kgen.contracts.capabilities import Guidance, Samples, Steps, Strength
    from kgen.contracts.dataset import Column, Dataset, Problem, Split
    from kgen.contracts.decoder import Decoder
    from kgen.contracts.encoder import Encoder
    from kgen.contracts.generator import Generator
    from kgen.contracts.joint import Joint
    from kgen.contracts.metric import GeneratedImages, Metric
    from kgen.data.images import read_image
    from kgen.options import OneOf, Static, is_static, part
    from kgen.pipeline.assembly import assemble, make_dataset, make_decoder
    from kgen.pipeline.likelihood import bits_per_dimension
    from kgen.pipeline.pipeline import Pipeline
    from kgen.pipeline.saving import load
    from kgen.random import NoiseSpec, SeedGenerator
    from kgen.runs.inputs import latents_of
    from kgen.runs.run import open_decoder
    from kgen.storage.json_file import read_json

_LAZY = {
    "assemble": "kgen.pipeline.assembly",
    "make_dataset": "kgen.pipeline.assembly",
    "make_decoder": "kgen.pipeline.assembly",
    "latents_of": "kgen.runs.inputs",
    "open_decoder": "kgen.runs.run",
    "bits_per_dimension": "kgen.pipeline.likelihood",
    "load": "kgen.pipeline.saving",
    "read_json": "kgen.storage.json_file",
    "Pipeline": "kgen.pipeline.pipeline",
    "Guidance": "kgen.contracts.capabilities",
    "Samples": "kgen.contracts.capabilities",
    "Steps": "kgen.contracts.capabilities",
    "Strength": "kgen.contracts.capabilities",
    "Encoder": "kgen.contracts.encoder",
    "Generator": "kgen.contracts.generator",
    "Joint": "kgen.contracts.joint",
    "Decoder": "kgen.contracts.decoder",
    "Column": "kgen.contracts.dataset",
    "Dataset": "kgen.contracts.dataset",
    "read_image": "kgen.data.images",
    "Problem": "kgen.contracts.dataset",
    "Split": "kgen.contracts.dataset",
    "GeneratedImages": "kgen.contracts.metric",
    "Metric": "kgen.contracts.metric",
    "NoiseSpec": "kgen.random",
    "SeedGenerator": "kgen.random",
    "OneOf": "kgen.options",
    "Static": "kgen.options",
    "is_static": "kgen.options",
    "part": "kgen.options",
}

__all__ = [
    "API",
    "Column",
    "ConditionSpace",
    "ConfigError",
    "DataError",
    "Dataset",
    "Decoder",
    "Encoder",
    "GeneratedImages",
    "Generator",
    "Guidance",
    "Joint",
    "KgenError",
    "Metric",
    "NoiseSpec",
    "OneOf",
    "Pipeline",
    "PluginError",
    "Problem",
    "Registrar",
    "RunError",
    "Samples",
    "SeedGenerator",
    "Space",
    "SpaceError",
    "Split",
    "Static",
    "Steps",
    "Strength",
    "assemble",
    "bits_per_dimension",
    "hookimpl",
    "is_static",
    "latents_of",
    "load",
    "make_dataset",
    "make_decoder",
    "open_decoder",
    "part",
    "read_image",
    "read_json",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'kgen' has no attribute {name!r}")
    from kgen.backend.quiet import quiet_tensorflow

    with quiet_tensorflow():
        value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
