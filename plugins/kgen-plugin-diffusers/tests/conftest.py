"""Tiny published models."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def published() -> ModuleType:
    """The module `published.py`, which imports PyTorch and diffusers."""
    spec = importlib.util.spec_from_file_location("published", Path(__file__).parent / "published.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def folder(published: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder like that of Stable Diffusion."""
    return Path(published.save(published.random_model("AutoencoderKL"), tmp_path_factory.mktemp("vae")))
