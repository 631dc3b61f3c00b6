"""How much memory there is; what does not fit into it is refused before it takes any."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import keras
import psutil
import pytest
from parts import Painter, Patterns, Words

import kgen
from kgen.backend import memory
from kgen.backend.memory import weights_fit
from kgen.options import option_model


def test_a_machine_has_its_memory_and_a_container_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LIMITS", ())
    whole = memory.total_memory()
    assert whole == pytest.approx(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), rel=0.01)
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "missing", tmp_path / "limit"))
    for text, expected in (("max\n", whole), ("9223372036854771712\n", whole), ("1048576\n", 2**20)):
        (tmp_path / "limit").write_text(text)
        assert memory.total_memory() == expected


@pytest.mark.backends
def test_the_memory_of_an_accelerator_as_its_backend_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.accelerator_memory() is None and memory.accelerator_memory(peak=False) is None  # on a CPU
    if keras.backend.backend() == "jax":
        counts = {"bytes_in_use": 3 * 2**20, "peak_bytes_in_use": 5 * 2**20}
        device = SimpleNamespace(memory_stats=lambda: counts)
        monkeypatch.setattr("jax.local_devices", lambda: [device])
    elif keras.backend.backend() == "torch":
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.memory_allocated", lambda: 3 * 2**20)
        monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 5 * 2**20)
    else:
        monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda kind: [kind])
        counts = {"current": 3 * 2**20, "peak": 5 * 2**20}
        monkeypatch.setattr("tensorflow.config.experimental.get_memory_info", {"GPU:0": counts}.__getitem__)
    assert (memory.accelerator_memory(), memory.accelerator_memory(peak=False)) == (5.0, 3.0)


def test_the_peak_of_a_process_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux counts in KiB, macOS in bytes; Windows has no module `resource`."""
    peak, now = memory.peak_memory(), psutil.Process().memory_info().rss // 2**20
    assert 0.9 * now <= peak < memory.total_memory() // 2**20
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert memory.peak_memory() == pytest.approx(peak // 2**10, abs=1)
    told = SimpleNamespace(peak_wset=3 * 2**20 + 5)
    monkeypatch.setattr(memory.psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: told))
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.peak_memory() == 3


def test_weights_larger_than_memory_are_refused_before_they_are_created(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_pipelines_larger_than_memory_are_refused() -> None:
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
