"""Folders of plugins: one that counts as installed, and one for plugins that a test makes on the spot."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kgen.plugins.discovery import registry

NUMBERS = itertools.count()

PLUGIN = """\
import kgen


@kgen.hookimpl
def kgen_components(registry):
    registry.dataset("patterns", "parts:Patterns", summary="Random images, each with a caption of its own")
    registry.encoder("words", "parts:Words", summary="A learned vector for every caption")
    registry.encoder("hues", "parts:Hues", summary="A vector for every caption, trained alone")
    registry.encoder("tints", "parts:Tints", summary="The same, with captions in capitals")
    registry.encoder("colors", "parts:MeanColor", summary="The mean color of an image, frozen")
    registry.decoder("codec", "parts:Codec", summary="A convolution either way")
    registry.generator("painter", "parts:Painter", summary="A mean image, learned through noise")
    registry.generator("editor", "parts:Editor", summary="The same, and it changes an image")
"""
"""The source of a plugin of the small parts, which TensorFlow traces quickly."""


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """The plugins in the folder are installed, as far as this process is concerned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        registry.cache_clear()
        yield
    registry.cache_clear()


@dataclass(frozen=True)
class Site:
    """A folder that plugins are installed into, as pip would."""

    path: Path

    def install(
        self, namespace: str, source: str, *, distribution: str = "", value: str = "", requires: Sequence[str] = ()
    ) -> str:
        """Installs a plugin of one module, whose name is returned."""
        module = f"made_plugin_{next(NUMBERS)}"
        (self.path / f"{module}.py").write_text(source, encoding="utf-8")
        name = distribution or f"kgen-plugin-{namespace}"
        info = self.path / f"{name.replace('-', '_')}-0.5.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 0.5", *(f"Requires-Dist: {r}" for r in requires)]
        (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[kgen]\n{namespace} = {value or module}\n", encoding="utf-8")
        return module

    def entry_points(self) -> list[importlib.metadata.EntryPoint]:
        found = importlib.metadata.distributions(path=[str(self.path)])
        return [entry_point for distribution in found for entry_point in distribution.entry_points]
