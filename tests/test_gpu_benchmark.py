"""`benchmarks/gpu.py` runs in its small form on a CPU, keeps to its time, and counts products and convolutions."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kgen.backend.precision import precision

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.portable


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_products_and_convolutions_are_counted() -> None:
    import jax
    from gpu_sections import program_flops

    def function(x: Any, y: Any, image: Any, kernel: Any) -> Any:
        z, _ = jax.lax.scan(lambda carry, _: (carry @ y, None), x, None, length=5)
        dims = ("NHWC", "HWIO", "NHWC")
        return z.sum() + jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=dims).sum()

    shapes = ((2, 3), (3, 3), (1, 8, 8, 4), (3, 3, 4, 6))
    program = jax.make_jaxpr(jax.jit(function))(*(np.ones(shape, np.float32) for shape in shapes))
    assert program_flops(program.jaxpr) == 5 * (2 * 2 * 3 * 3) + 2 * 8 * 8 * 6 * 3 * 3 * 4


def test_a_section_ends_in_time_and_does_not_count_its_warm_up() -> None:
    from gpu_timing import TINY, Blocks, repeated

    blocks = Blocks(TINY, time.monotonic() - 1.0)  # the time is over, but one block must be counted
    assert [blocks.end(), blocks.end()] == [True, False]
    blocks.seconds = [100.0, 0.5]
    assert blocks.result(8) == {"per second": 16.0, "warm-up": 1, "steps": 1}
    done = list[int]()
    found = repeated(lambda: done.append(1), TINY, time.monotonic() + 60.0)
    assert len(done) == 1 + TINY.blocks and found["steps"] == TINY.blocks


def test_a_section_that_fails_or_is_skipped_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu
    import gpu_peer

    monkeypatch.setattr(gpu_peer.importlib.util, "find_spec", lambda name: None)
    skipped = gpu_peer.peer("dit", gpu.TINY, 0.0)
    assert list(gpu.lines_of("dit-peer", skipped, None)) == [
        "| dit-peer | skipped: torch and diffusers cannot be imported | | | |"
    ]
    monkeypatch.setitem(gpu.SECONDS, "matmul", 0.01)
    failed = gpu.child("matmul", argparse.Namespace(tiny=False))
    assert list(gpu.lines_of("matmul", failed, None)) == ["| matmul | FAILED: it took more than 0.01 s | | | |"]
    assert sum(gpu.SECONDS.values()) <= 8 * 60


def test_sections_of_small_networks_have_their_lines() -> None:
    from gpu import lines_of
    from gpu_sections import diffusion, matmul, tokens
    from gpu_timing import TINY

    with precision("float32"):  # which the sections change
        deadline = time.monotonic() + 60.0
        dit, of_tokens = diffusion("dit", TINY, deadline), tokens(TINY, deadline)
        assert matmul(TINY, deadline)["flops"] > 0
    assert dit["weights"] > 0
    assert list(of_tokens) == [f"{kind}, {count} tokens" for count in (4, 16) for kind in ("AR", "NAR")]
    for timed in (dit["training"], dit["sampling"], *of_tokens.values()):
        assert timed["per second"] > 0 and (timed["warm-up"], timed["steps"]) == (1, TINY.blocks)
    dit["training"]["per second"] = 6.0
    first, second = lines_of("dit", {**dit, "flops": 5e9}, 60e9)  # 6 images/s of 5 GFLOP are half of 60 GFLOP/s
    assert first == f"| dit: training, {dit['weights']:,} weights | 6.0 images/s | 0.500 | 1 | 2 |"
    assert second.endswith(" images/s |  | 1 | 2 |")
    assert len(list(lines_of("tokens", of_tokens, None))) == 4


@pytest.mark.slow
def test_the_small_form_runs_on_a_cpu() -> None:
    job = [sys.executable, str(BENCHMARKS / "gpu.py"), "--tiny"]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(job, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("matmul", "dit: training", "dit: sampling", "unet: training", "unet: sampling", "input"):
        assert f"| {name}" in done.stdout
    for side, count in ((2, 4), (4, 16)):
        assert f"| tokens: AR, {count} tokens" in done.stdout and f"| tokens: NAR, {side * side} tokens" in done.stdout
    assert all(f"| {name}" in done.stdout for name in ("dit-peer", "unet-peer"))
