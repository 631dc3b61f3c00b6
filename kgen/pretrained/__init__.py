"""Reads models that other libraries have saved: their configurations, and their weights in safetensors files."""

from kgen.pretrained.files import require_files, require_folder, weight_files
from kgen.pretrained.lora import HasLoraNames, LoraNames
from kgen.pretrained.section import Section
from kgen.pretrained.tensors import Source, Tensors

__all__ = [
    "HasLoraNames",
    "LoraNames",
    "Section",
    "Source",
    "Tensors",
    "require_files",
    "require_folder",
    "weight_files",
]
