"""What does not fit into the memory is refused before it takes any."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import pytest
from parts import Painter, Patterns, Words

import kgen
from kgen.backend import memory
from kgen.backend.memory import weights_fit
from kgen.options import option_model


def test_weights_that_do_not_fit_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix of 1,000,000 x 1,000,000 would take 3.7 TiB."""
    layer = keras.layers.Dense(1_000_000, name="huge")
    with pytest.raises(kgen.ConfigError, match=r"3,725 GiB of .* GiB .* the weight 1000000x1000000 of layer 'huge"):
        weights_fit()(layer.build)((None, 1_000_000))
    assert not layer.weights
    monkeypatch.setattr(memory, "total_memory", lambda: 4 * (8 * 8 + 8))
    with weights_fit():
        keras.layers.Dense(8).build((None, 8))
    with weights_fit(), pytest.raises(kgen.ConfigError):
        keras.layers.Dense(9).build((None, 8))
    keras.layers.Dense(9).build((None, 8))  # no guard is left behind


def test_pipelines_have_that_guard() -> None:
    dataset = Patterns(count=2)
    encoder = Words(dim=1_000_000)
    encoder.adapt(dataset.captions("train"))
    painter = Painter(dataset.image_space, encoder.condition_space, width=1_000_000)
    with pytest.raises(kgen.ConfigError, match="too large for this machine"):
        kgen.assemble(encoder=encoder, generator=painter, dataset=dataset)


@pytest.mark.parametrize("shape", [(1_000_000, 1_000_000, 3), (2**29,)])
def test_a_space_has_a_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(kgen.SpaceError, match="are more than 268,435,456 numbers per example"):
        kgen.Space("continuous", shape)


def test_options_of_parts_have_bounds() -> None:
    dataset = Patterns(count=2)
    with pytest.raises(kgen.ConfigError, match=r"dim: .*must be at most 1,000,000"):
        kgen.assemble(encoder={"name": "text/bag", "dim": 10**9}, generator="diffusion", dataset=dataset)


@dataclass
class Part:
    numbers: tuple[int, ...]


def test_whole_numbers_are_found_wherever_they_lie_in_an_option() -> None:
    def generate(*, steps: int = 1, parts: dict[str, Part] | None = None, scale: float = 1.0) -> None: ...

    model = option_model(generate, "generate")
    model(steps=1_000_000, parts={"a": {"numbers": [1, -1_000_000]}}, scale=10**9)
    for given in ({"steps": 1_000_001}, {"parts": {"a": {"numbers": [1, -1_000_001]}}}):
        with pytest.raises(ValueError, match="must be at most 1,000,000"):
            model(**given)
