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
    from kgen.backend.attributes import freeze_layer
    from kgen.backend.selection import load_backend, select_backend
    from kgen.config import decoding_options, sampling_options
    from kgen.contracts.capabilities import Capability, Guidance, Guide, GuideModel, Samples, Steps, Strength, option_of
    from kgen.contracts.dataset import Column, Dataset, Problem, Split
    from kgen.contracts.decoder import Decoder
    from kgen.contracts.encoder import Encoder, ImageEmbedder, image_embedder
    from kgen.contracts.generator import Generator
    from kgen.contracts.joint import Joint
    from kgen.contracts.logger import Logger
    from kgen.contracts.metric import GeneratedImages, Metric
    from kgen.data.cache import cached_arrays
    from kgen.data.images import read_image
    from kgen.experiments.inputs import latents_of
    from kgen.experiments.sections import ReportSection
    from kgen.generation.models import ModelCache
    from kgen.generation.request import ImageRequest
    from kgen.generation.writing import write_images
    from kgen.options import OneOf, Static, is_static, part
    from kgen.parts.construction import make_dataset, make_decoder, make_encoder, make_generator, make_metric
    from kgen.parts.freezing import freeze
    from kgen.parts.initial import init_weights
    from kgen.parts.lora import add_lora, merge_lora
    from kgen.parts.lora_files import convert_lora, init_lora, load_lora, save_lora
    from kgen.parts.saving import save
    from kgen.pipeline.assembly import assemble
    from kgen.pipeline.decoding.variations import Variations
    from kgen.pipeline.levels import LossAxis, record_levels
    from kgen.pipeline.likelihood import bits_per_dimension
    from kgen.pipeline.loading import load
    from kgen.pipeline.model import Pipeline
    from kgen.plugins.models import find_run, installed_models
    from kgen.previews import show_step, watch_steps
    from kgen.random import NoiseSpec, SeedGenerator
    from kgen.reporting.sheets import require_png, save_sheet
    from kgen.runs.report import add_to_report
    from kgen.runs.run import open_config, open_dataset, open_decoder, open_encoder
    from kgen.storage.json_file import read_json
    from kgen.storage.paths import weight_paths

_LAZY = {
    "assemble": "kgen.pipeline.assembly",
    "make_dataset": "kgen.parts.construction",
    "make_decoder": "kgen.parts.construction",
    "make_encoder": "kgen.parts.construction",
    "make_generator": "kgen.parts.construction",
    "make_metric": "kgen.parts.construction",
    "cached_arrays": "kgen.data.cache",
    "latents_of": "kgen.experiments.inputs",
    "ReportSection": "kgen.experiments.sections",
    "add_to_report": "kgen.runs.report",
    "open_config": "kgen.runs.run",
    "open_dataset": "kgen.runs.run",
    "sampling_options": "kgen.config",
    "decoding_options": "kgen.config",
    "require_png": "kgen.reporting.sheets",
    "save_sheet": "kgen.reporting.sheets",
    "open_decoder": "kgen.runs.run",
    "open_encoder": "kgen.runs.run",
    "LossAxis": "kgen.pipeline.levels",
    "record_levels": "kgen.pipeline.levels",
    "bits_per_dimension": "kgen.pipeline.likelihood",
    "load": "kgen.pipeline.loading",
    "find_run": "kgen.plugins.models",
    "installed_models": "kgen.plugins.models",
    "save": "kgen.parts.saving",
    "init_weights": "kgen.parts.initial",
    "freeze": "kgen.parts.freezing",
    "add_lora": "kgen.parts.lora",
    "merge_lora": "kgen.parts.lora",
    "convert_lora": "kgen.parts.lora_files",
    "init_lora": "kgen.parts.lora_files",
    "load_lora": "kgen.parts.lora_files",
    "save_lora": "kgen.parts.lora_files",
    "freeze_layer": "kgen.backend.attributes",
    "load_backend": "kgen.backend.selection",
    "select_backend": "kgen.backend.selection",
    "weight_paths": "kgen.storage.paths",
    "read_json": "kgen.storage.json_file",
    "ImageRequest": "kgen.generation.request",
    "ModelCache": "kgen.generation.models",
    "write_images": "kgen.generation.writing",
    "Pipeline": "kgen.pipeline.model",
    "Variations": "kgen.pipeline.decoding.variations",
    "Capability": "kgen.contracts.capabilities",
    "option_of": "kgen.contracts.capabilities",
    "Guidance": "kgen.contracts.capabilities",
    "Guide": "kgen.contracts.capabilities",
    "GuideModel": "kgen.contracts.capabilities",
    "Samples": "kgen.contracts.capabilities",
    "Steps": "kgen.contracts.capabilities",
    "Strength": "kgen.contracts.capabilities",
    "Encoder": "kgen.contracts.encoder",
    "ImageEmbedder": "kgen.contracts.encoder",
    "image_embedder": "kgen.contracts.encoder",
    "Generator": "kgen.contracts.generator",
    "Joint": "kgen.contracts.joint",
    "Decoder": "kgen.contracts.decoder",
    "Column": "kgen.contracts.dataset",
    "Dataset": "kgen.contracts.dataset",
    "Logger": "kgen.contracts.logger",
    "read_image": "kgen.data.images",
    "Problem": "kgen.contracts.dataset",
    "Split": "kgen.contracts.dataset",
    "GeneratedImages": "kgen.contracts.metric",
    "Metric": "kgen.contracts.metric",
    "show_step": "kgen.previews",
    "watch_steps": "kgen.previews",
    "NoiseSpec": "kgen.random",
    "SeedGenerator": "kgen.random",
    "OneOf": "kgen.options",
    "Static": "kgen.options",
    "is_static": "kgen.options",
    "part": "kgen.options",
}

__all__ = [
    "API",
    "Capability",
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
    "Guide",
    "GuideModel",
    "ImageEmbedder",
    "ImageRequest",
    "Joint",
    "KgenError",
    "Logger",
    "LossAxis",
    "Metric",
    "ModelCache",
    "NoiseSpec",
    "OneOf",
    "Pipeline",
    "PluginError",
    "Problem",
    "Registrar",
    "ReportSection",
    "RunError",
    "Samples",
    "SeedGenerator",
    "Space",
    "SpaceError",
    "Split",
    "Static",
    "Steps",
    "Strength",
    "Variations",
    "add_lora",
    "add_to_report",
    "assemble",
    "bits_per_dimension",
    "cached_arrays",
    "convert_lora",
    "decoding_options",
    "find_run",
    "freeze",
    "freeze_layer",
    "hookimpl",
    "image_embedder",
    "init_lora",
    "init_weights",
    "installed_models",
    "is_static",
    "latents_of",
    "load",
    "load_backend",
    "load_lora",
    "make_dataset",
    "make_decoder",
    "make_encoder",
    "make_generator",
    "make_metric",
    "merge_lora",
    "open_config",
    "open_dataset",
    "open_decoder",
    "open_encoder",
    "option_of",
    "part",
    "read_image",
    "read_json",
    "record_levels",
    "require_png",
    "save",
    "save_lora",
    "save_sheet",
    "select_backend",
    "show_step",
    "watch_steps",
    "weight_paths",
    "write_images",
    "sampling_options",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'kgen' has no attribute {name!r}")
    from kgen.backend.selection import quiet_tensorflow

    with quiet_tensorflow():
        value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
