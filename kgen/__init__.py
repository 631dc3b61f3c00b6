"""kgen: assemble, train and compare generative image models from plugins.

The public names; importing this module loads no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kgen.errors import ConfigError, DataError, KgenError, PluginError, RunError, SpaceError
from kgen.hookspecs import hookimpl
from kgen.registry import Registrar
from kgen.spaces import ConditionSpace, Space

if TYPE_CHECKING:
    from kgen.assembly import assemble, make_dataset, make_decoder
    from kgen.components.dataset import Dataset, Problem, Split
    from kgen.components.decoder import Decoder
    from kgen.components.encoder import Encoder
    from kgen.components.generator import Generator
    from kgen.components.metric import Metric
    from kgen.inputs import latents_of
    from kgen.json_file import read_json
    from kgen.likelihood import bits_per_dimension
    from kgen.pipeline import Pipeline
    from kgen.random import NoiseSpec, SeedGenerator
    from kgen.run import open_decoder
    from kgen.saving import load
    from kgen.signature import Static, is_static

_LAZY = {
    "assemble": "kgen.assembly",
    "make_dataset": "kgen.assembly",
    "make_decoder": "kgen.assembly",
    "latents_of": "kgen.inputs",
    "open_decoder": "kgen.run",
    "bits_per_dimension": "kgen.likelihood",
    "load": "kgen.saving",
    "read_json": "kgen.json_file",
    "Pipeline": "kgen.pipeline",
    "Encoder": "kgen.components.encoder",
    "Generator": "kgen.components.generator",
    "Decoder": "kgen.components.decoder",
    "Dataset": "kgen.components.dataset",
    "Problem": "kgen.components.dataset",
    "Split": "kgen.components.dataset",
    "Metric": "kgen.components.metric",
    "NoiseSpec": "kgen.random",
    "SeedGenerator": "kgen.random",
    "Static": "kgen.signature",
    "is_static": "kgen.signature",
}

__all__ = [
    "ConditionSpace",
    "ConfigError",
    "DataError",
    "Dataset",
    "Decoder",
    "Encoder",
    "Generator",
    "KgenError",
    "Metric",
    "NoiseSpec",
    "Pipeline",
    "PluginError",
    "Problem",
    "Registrar",
    "RunError",
    "SeedGenerator",
    "Space",
    "SpaceError",
    "Static",
    "Split",
    "assemble",
    "bits_per_dimension",
    "hookimpl",
    "is_static",
    "latents_of",
    "load",
    "make_dataset",
    "make_decoder",
    "open_decoder",
    "read_json",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'kgen' has no attribute {name!r}")
    from kgen.quiet import quiet_tensorflow

    with quiet_tensorflow():
        value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
