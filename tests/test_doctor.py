"""`kgen doctor`: what it reports, and what it finds wrong."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import keras
import pytest

from kgen.cli import diagnosis, probe
from kgen.cli.diagnosis import finish_probe, start_probe
from kgen.plugins.discovery import discover


def process(code: str) -> Popen[str]:
    return Popen([sys.executable, "-c", code], stdout=PIPE, stderr=PIPE, text=True)


def answer(accelerators: list[str], faults: list[str]) -> str:
    """The code of a process that answers like a probe."""
    found = json.dumps({"accelerators": accelerators, "components": 7, "faults": faults})
    return f"print('noise'); print({found!r})"


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The code of the processes that take the place of the real ones, by backend."""
    codes = dict.fromkeys(("tensorflow", "jax", "torch"), answer([], []))
    monkeypatch.setattr(diagnosis, "start_probe", lambda backend, arguments: process(codes[backend]))
    monkeypatch.setattr(diagnosis, "installed", codes.__contains__)
    monkeypatch.setattr(diagnosis, "_nvidia", lambda: False)
    return codes


def test_a_sound_installation(kgen, probes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    backend = keras.backend.backend()
    outcome = kgen("doctor", KERAS_BACKEND=backend)
    assert outcome.status == 0 and outcome.out.endswith("\nNothing is wrong.\n"), outcome
    for told in (
        f"kgen {version('kgen-core')}, contract 1\n",
        f"keras {version('keras')}",
        f"  {backend} (kgen uses it): works; no accelerator, CPU only; all 7 components were imported\n",
        "  kgen-plugin-toy 1.2 (toy): encoder (",
        "  CUDA_VISIBLE_DEVICES=3\n",
    ):
        assert told in outcome.out, told
    assert "hunter2" not in outcome.out and str(Path.home()) not in outcome.out


def test_broken_backends_plugins_and_packages_are_named(kgen, probes: dict[str, str], site, toy) -> None:
    backend = keras.backend.backend()
    others = [name for name in probes if name != backend]
    probes[backend] = answer(["A", "A"], ["no x"])
    probes[others[0]] = "import sys; sys.exit('Traceback\\nImportError: libcudart.so.12 is missing')"
    probes[others[1]] = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    site.install("sour", "import a_module_that_is_not_there")
    site.install("late", "KGEN_API = 2")
    site.install("off", "import a_module_that_is_not_there")
    site.install("needy", "", requires=["keras>=99", "no-such-package>=1", "other; extra == 'x'"])
    outcome = kgen("doctor", PYTHONPATH=str(site.path), KERAS_BACKEND=backend, KGEN_DISABLE_PLUGINS="off")
    assert outcome.status == 1 and "What is wrong:\n  1. " in outcome.out and not outcome.err, outcome
    keras_version = version("keras")
    for told in (
        f"the backend {others[0]} does not work: ImportError: libcudart.so.12 is missing\n",
        f"the backend {others[1]} does not work: its process was ended by SIGKILL\n",
        f"{backend} (kgen uses it): works; 2 x A\n",
        ". no x\n",
        "plugin 'sour' of kgen-plugin-sour 0.5 could not be loaded: ModuleNotFoundError",
        "plugin 'late' of kgen-plugin-late 0.5 could not be loaded: it was written for contract 2",
        f"kgen-plugin-needy needs keras>=99, but keras is {keras_version}: pip install 'keras>=99'\n",
        "kgen-plugin-needy needs no-such-package>=1, but no-such-package is not installed",
        "kgen-plugin-off 0.5 (off): disabled by KGEN_DISABLE_PLUGINS\n",
    ):
        assert told in outcome.out, told
    assert "plugin 'off'" not in outcome.out and "other" not in outcome.out.partition("What is wrong")[2]


def test_no_backend_and_no_gpu(kgen, probes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = kgen("doctor", KERAS_BACKEND="tensorflw")
    assert outcome.status == 1 and "KERAS_BACKEND=tensorflw: kgen runs on tensorflow, jax, torch\n" in outcome.out
    monkeypatch.setattr(diagnosis, "_nvidia", lambda: True)
    backend = keras.backend.backend()
    outcome = kgen("doctor", KERAS_BACKEND=backend)
    assert f"there is an NVIDIA driver, but {backend}, which kgen uses, sees no GPU\n" in outcome.out


def test_a_probe_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "PATIENCE", 0.2)
    slow = process("import time; time.sleep(60)")
    assert finish_probe(slow) == ({}, "it did not answer within 0.2 s") and slow.returncode is not None


@pytest.mark.backends
def test_the_backend_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe.try_backend()
    assert isinstance(found["accelerators"], list)
    monkeypatch.setattr(keras.ops, "matmul", lambda a, b: keras.ops.zeros((2, 2)))
    with pytest.raises(ArithmeticError, match="a product of matrices is"):
        probe.try_backend()


@pytest.mark.portable
def test_components_that_cannot_be_imported_are_named(site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install(
        "half",
        "import kgen\n\n\n@kgen.hookimpl\ndef kgen_components(registry):\n"
        "    registry.metric('gone', 'no_such_module:Gone', summary='Gone')\n",
    )
    found = discover(site.entry_points())
    monkeypatch.setattr("kgen.plugins.discovery.registry", lambda: found)
    tried: dict[str, Any] = probe.try_components()
    (fault,) = tried["faults"]
    assert fault.startswith("metric 'half/gone' of kgen-plugin-half 0.5 cannot be imported from 'no_such_module:Gone'")
    assert tried["components"] == len(found.components) > 20


@pytest.mark.slow
@pytest.mark.backends
def test_a_real_probe() -> None:
    found, fault = finish_probe(start_probe(keras.backend.backend(), [probe.COMPONENTS]))
    assert fault == "" and found["faults"] == [] and found["components"] > 100
    assert json.dumps(found)
