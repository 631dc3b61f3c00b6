"""A tiny model, and the page that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

import kgen

NETWORK = {"kind": "dit", "patch": 4, "width": 8, "depth": 1, "heads": 2}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved pipeline for images of 8x8, which is not trained."""
    pipeline = kgen.assemble(
        encoder={"name": "text/bag", "dim": 8},
        generator={"name": "diffusion/diffusion", "network": NETWORK},
        image_space=kgen.Space("continuous", (8, 8, 3)),
        captions=["red heart", "blue star"],
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    kgen.save(pipeline, folder)
    return folder
