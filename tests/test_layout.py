"""The shape of the source: layers, sizes, names, and what is imported when."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import kgen

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "kgen").rglob("*.py"))
PLUGINS = [p for p in sorted((ROOT / "plugins").rglob("*.py")) if "tests" not in p.parts and "build" not in p.parts]
MAX_MODULES = 12
"""Maximum number of modules of a package, without its `__init__.py` and its subpackages."""

FRAMEWORKS = {"tensorflow", "jax", "torch", "keras", "keras_hub"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", CORE, ids=name)
def test_core_names_no_family(path: Path) -> None:
    """Code that is particular to a family of models belongs to its plugin."""
    if name(path) == "kgen/nn/ddim.py":  # the sampler that several plugins share
        return
    found = re.findall(r"diffusion|sigma", path.read_text(encoding="utf-8"), re.IGNORECASE)
    assert not found, f"{name(path)} speaks of {set(found)}"


@pytest.mark.parametrize("path", [*CORE, *PLUGINS], ids=name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, f"{name(path)} is too long: one concept a file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documentation = len((ast.get_docstring(node, clean=False) or "").splitlines())
            lines = (node.end_lineno or 0) - node.lineno + 1 - documentation
            assert lines <= 60, f"{name(path)}:{node.lineno}: {node.name} has {lines} lines"


def test_no_package_has_too_many_modules() -> None:
    count = Counter(name(path.parent) for path in CORE if path.name != "__init__.py")
    assert not {package: modules for package, modules in count.items() if modules > MAX_MODULES}


def test_public_names_are_complete_and_there() -> None:
    assert len(set(kgen.__all__)) == len(kgen.__all__)
    assert set(kgen.__all__) >= set(kgen._LAZY)
    for public in kgen.__all__:
        assert getattr(kgen, public) is not None, public
    exported = {n for n, v in vars(kgen).items() if getattr(v, "__module__", "").startswith("kgen.") and n[0] != "_"}
    assert exported <= set(kgen.__all__)


def test_importing_kgen_imports_no_framework() -> None:
    code = "import sys, kgen.plugins.hookspecs, kgen.plugins.discovery as d; d.registry(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not FRAMEWORKS & set(done.stdout.split())


def test_plugins_are_complete() -> None:
    for folder in sorted((ROOT / "plugins").glob("kgen-plugin-*")):
        package = folder.name.replace("-", "_")
        for needed in ("pyproject.toml", "README.md", f"{package}/__init__.py", "tests"):
            assert (folder / needed).exists(), f"{folder.name} lacks {needed}"
        assert importlib.util.find_spec(package), f"{folder.name} is not installed"


def test_public_names_have_docstrings_that_help_shows() -> None:
    """Class attributes in the docstring of their class, as `help` does not show the texts below them."""
    from kgen.plugins.registry import Registrar

    contracts = [kgen.Encoder, kgen.Generator, kgen.Decoder, kgen.Dataset, kgen.Metric, kgen.Logger, Registrar]
    for public in kgen.__all__:
        assert getattr(kgen, public).__doc__ or public in ("Split", "hookimpl"), public
    for cls in contracts:
        for name, value in vars(cls).items():
            if name.startswith("_") or name in ("arguments", "largest_option"):
                continue
            if callable(value) or isinstance(value, property | classmethod):
                assert value.__doc__, f"{cls.__name__}.{name} has no docstring"
            elif not isinstance(value, frozenset):
                assert f"    {name}: " in (cls.__doc__ or ""), f"{cls.__name__}'s docstring does not tell of '{name}'"
