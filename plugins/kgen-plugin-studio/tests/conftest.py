"""A tiny model, and the page that shows it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kgen

NETWORK = {"kind": "dit", "patch": 4, "width": 8, "depth": 1, "heads": 2}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved pipeline for images of 8x8, which is not trained."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    kgen.save(assembled({"name": "diffusion/diffusion", "network": NETWORK}), folder)
    return folder


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved pipeline that can change the part of an image under a mask, which is not trained."""
    network = {"width": 8, "depth": 1, "heads": 2}
    folder = tmp_path_factory.mktemp("models") / "tokens"
    kgen.save(assembled({"name": "tokens/nar", "network": network}, "tokens/pixel-tokens"), folder)
    return folder


def assembled(generator: dict[str, Any], decoder: str = "identity") -> kgen.Pipeline:
    """A pipeline for images of 8x8."""
    return kgen.assemble(
        encoder={"name": "text/bag", "dim": 8},
        generator=generator,
        decoder=decoder,
        image_space=kgen.Space("continuous", (8, 8, 3)),
        captions=["red heart", "blue star"],
    )


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Runs a command line of kgen in this process."""

    def run(line: str) -> None:
        from kgen.cli import main

        monkeypatch.setattr("sys.argv", shlex.split(line))
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0

    return run
