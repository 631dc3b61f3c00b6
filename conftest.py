"""Settings of all tests: quiet, few threads (tests run side by side), no trace left in the user's caches."""

from __future__ import annotations

import gc
import os
import re
import sys
import tempfile
from collections.abc import Generator
from itertools import chain, combinations
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(name, "1")

# transformers imports both if it finds them: PyPI's torchvision does not import beside a PyTorch for CPUs, and Triton
# crashes if TensorFlow is loaded.
for name in ("torchvision", "triton"):
    sys.modules.setdefault(name, None)  # type: ignore[arg-type]

# JAX compiles far more than it runs here. XLA's older emitters of loops take half the time of those by MLIR, and one
# module costs less than many, which would be compiled side by side. XLA ends the process if it does not know a flag.
QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
os.environ.setdefault("XLA_FLAGS", " ".join(QUICK_TO_COMPILE))

_cache = tempfile.TemporaryDirectory(prefix="kgen-tests-")  # removed when the process ends
os.environ["KGEN_CACHE"] = _cache.name

# Programs that JAX has compiled, for all tests: the folder of the first process, which the others inherit.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{_cache.name}/jax")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Looks for no garbage among what is imported: it stays, and a search takes seconds in each process."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _uses_xla() -> None:
    """Each test may use XLA, however many programs it has compiled for others in this process."""
    if (compiled := sys.modules.get("kgen.backend.compiled")) is not None:
        compiled.xla_programs.count = 0


MARKERS = ("slow", "backends", "portable")

MARK = re.compile(rf"\bmark\.({'|'.join(MARKERS)})\b")


def may_be_selected(source: str, expression: str) -> bool:
    """Whether `-m expression` may select a test of a module, by the markers that its source names.

    A test has the markers of the line `pytestmark`, and may have any other that the module names.
    """
    if not expression or not {*re.findall(r"\w+", expression)} <= {*MARKERS, "and", "or", "not"}:
        return True
    lines = re.findall(r"^pytestmark = .*", source, re.MULTILINE)
    always = {marker for line in lines for marker in MARK.findall(line)}
    others = {*MARK.findall(source)} - always
    sets = chain.from_iterable(combinations(others, count) for count in range(len(others) + 1))
    return any(eval(expression, {name: name in {*always, *some} for name in MARKERS}) for some in sets)


class NotImported(pytest.Module):
    """A module of which no test is selected."""

    def collect(self) -> list[pytest.Item]:
        return []


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Imports only modules of which `-m` may select a test: others import whole libraries, and each process pays."""
    if may_be_selected(module_path.read_text(encoding="utf-8"), parent.config.option.markexpr):
        return None
    return NotImported.from_parent(parent, path=module_path)
