"""Each pass of `make test` imports only the test modules that it needs, and misses no test."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.portable

ROOT = Path(__file__).parent.parent
TENSORFLOW = "not slow and (backends or not portable)"
JAX = "not slow and backends"
TORCH = "not slow and (backends or portable)"
PORTABLE = "pytestmark = pytest.mark.portable\n"


@pytest.fixture
def conftest(pytestconfig: pytest.Config) -> ModuleType:
    """The module `conftest.py` of the repository, as pytest has imported it."""
    (found,) = [plugin for plugin in pytestconfig.pluginmanager.get_plugins() if hasattr(plugin, "may_be_selected")]
    assert isinstance(found, ModuleType)
    return found


@pytest.mark.parametrize(
    ("source", "passes"),
    [
        ("", {TENSORFLOW}),
        (PORTABLE, {TORCH}),
        (PORTABLE + "@pytest.mark.backends\n", {TENSORFLOW, JAX, TORCH}),
        (PORTABLE + 'pytest.param("vq", marks=pytest.mark.slow)\n', {TORCH}),
        ("@pytest.mark.portable\n", {TENSORFLOW, TORCH}),
        ("@pytest.mark.backends\n", {TENSORFLOW, JAX, TORCH}),
        ('pytestmark = [pytest.mark.portable, pytest.mark.usefixtures("cache")]\n', {TORCH}),
        ("pytestmark = [pytest.mark.portable, pytest.mark.slow]\n", set()),
        ("pytestmark = [\n    pytest.mark.portable,\n    pytest.mark.slow,\n]\n", {TENSORFLOW, TORCH}),  # it may be
    ],
)
def test_a_module_is_imported_by_the_passes_that_may_select_its_tests(
    source: str, passes: set[str], conftest: ModuleType
) -> None:
    assert {each for each in (TENSORFLOW, JAX, TORCH) if conftest.may_be_selected(source, each)} == passes
    assert conftest.may_be_selected(source, "")
    assert conftest.may_be_selected(source, "usefixtures and not slow"), "what it does not know, it imports"


def test_markers_are_in_the_modules_of_their_tests(conftest: ModuleType) -> None:
    """Were they in a helper, a pass would not know that it needs the module."""
    folders = [ROOT / "tests", *ROOT.glob("plugins/*/tests"), ROOT / "kgen" / "testing"]
    helpers = [file for folder in folders for file in folder.glob("*.py") if not file.name.startswith("test_")]
    assert len(helpers) > 20
    assert not [file for file in helpers if conftest.MARK.search(file.read_text(encoding="utf-8"))]


def test_the_passes_are_those_of_the_makefile() -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    for backend, expression in (("tensorflow", TENSORFLOW), ("jax", JAX), ("torch", TORCH)):
        assert f"\tKERAS_BACKEND={backend} $(PYTEST) -m '{expression}'" in lines
