from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest


class Unused(ModuleType):
    """A module from which anything can be imported, and nothing is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


@pytest.fixture(scope="session")
def torch_fidelity() -> SimpleNamespace:
    """The modules of torch-fidelity that compute metrics from features, without its networks, which need torchvision.

    The build of torchvision on PyPI does not work beside a PyTorch for CPUs.
    """
    pytest.importorskip("torch")
    if (found := importlib.util.find_spec("torch_fidelity")) is None:
        pytest.skip("torch-fidelity is not installed")
    package = ModuleType("torch_fidelity")
    package.__path__ = list(found.submodule_search_locations or ())
    with mock.patch.dict(sys.modules, {"torch_fidelity": package, "torch_fidelity.utils": Unused("utils")}):
        names = ("fid", "kid", "isc", "prc")
        return SimpleNamespace(**{name: importlib.import_module(f"torch_fidelity.metric_{name}") for name in names})


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An empty cache for every test."""
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
