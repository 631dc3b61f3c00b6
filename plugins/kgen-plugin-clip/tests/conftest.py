"""Tiny published models."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def published() -> ModuleType:
    """The module `published.py`, which imports PyTorch and `transformers`."""
    spec = importlib.util.spec_from_file_location("published", Path(__file__).parent / "published.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def folder(published: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model like OpenAI's, saved by `transformers`."""
    return Path(published.save(published.random_model("quick_gelu"), tmp_path_factory.mktemp("openai")))


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder, which a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))
