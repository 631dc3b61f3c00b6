"""`kgen plugins new`: the package of each kind is complete, and its tests and its example pass."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import pytest
from command_line import environment
from packaging.requirements import Requirement

from kgen.authoring.package import MAX_NAME, TEMPLATES, kinds_with_templates, new_plugin, render
from kgen.errors import ConfigError
from kgen.plugins.discovery import discover, registry
from kgen.plugins.hookspecs import API
from kgen.plugins.registry import KINDS

ROOT = Path(__file__).parents[1]


@contextmanager
def installed(package: Path, site: Path) -> Iterator[dict[str, Any]]:
    """Installs a package as pip does with -e, as far as this process is concerned. Yields its project table."""
    project: dict[str, Any] = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {text}\n" for text in project["dependencies"])
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n{needs}")
    ((name, value),) = project["entry-points"]["kgen"].items()
    (info / "entry_points.txt").write_text(f"[kgen]\n{name} = {value}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.syspath_prepend(str(package))
        registry.cache_clear()
        yield project
    registry.cache_clear()
    for module in [module for module in sys.modules if module.startswith(value.partition(".")[0])]:
        del sys.modules[module]


def run_tests(file: Path) -> int:
    """Runs the tests of a module that take no fixtures, in this process. Returns their number."""
    spec = importlib.util.spec_from_file_location(f"written_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    classes = [cls() for name, cls in vars(module).items() if name.startswith("Test") and inspect.isclass(cls)]
    tests = [getattr(owner, name) for owner in (module, *classes) for name in dir(owner) if name.startswith("test_")]
    for test in tests:
        test()
    return len(tests)


# ---- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.portable
@pytest.mark.parametrize("kind", kinds_with_templates())
def test_a_package_of_each_kind_is_complete(kind: str, tmp_path: Path) -> None:
    package = new_plugin("my-own2", kind, tmp_path)
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*") if path.is_file()}
    module = "kgen_plugin_my_own2"
    needed = {"pyproject.toml", "README.md", "example.yaml", ".gitignore", ".github/workflows/test.yml"}
    assert needed | {f"{module}/__init__.py", f"{module}/plugin.py", f"{module}/py.typed"} <= set(files)
    for name, path in files.items():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"your_?name|your_?kind|dot-", f"{name}\n{text}"), name
        if name.endswith(".py"):
            compile(text, name, "exec")
    assert f"KGEN_API = {API}\n" in files[f"{module}/plugin.py"].read_text()
    with installed(package, tmp_path / "site") as project:
        assert project["name"] == "kgen-plugin-my-own2" and project["license"] == "Apache-2.0"
        assert kind in project["description"] and "test" in project["optional-dependencies"]
        (component,) = [c for c in registry().components.values() if c.origin.namespace == "my-own2"]
        assert component.kind == kind and component.load()
        assert component.id in files["README.md"].read_text() or "." in kind
        assert component.name in files["example.yaml"].read_text()


def test_the_bounds_of_the_requirements_are_those_of_kgen() -> None:
    def requirements(texts: list[str]) -> dict[str, Requirement]:
        return {requirement.name: requirement for requirement in map(Requirement, texts)}

    core = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    written = tomllib.loads((TEMPLATES / "common" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own, needed = requirements(core["dependencies"]), requirements(written["dependencies"])
    major, minor, *_ = map(int, core["version"].split("."))
    bounds = f">={major}.{minor},<{major}.{minor + 1}"
    assert needed.pop("kgen-core") == Requirement(f"kgen-core{bounds}")
    assert needed and needed == {name: own[name] for name in needed}
    for name, requirement in requirements(written["optional-dependencies"]["test"]).items():
        assert requirement == Requirement("kgen-core[test]" if name == "kgen-core" else f"{name}{bounds}")
    assert written["requires-python"] == core["requires-python"]


@pytest.mark.portable
def test_a_metric_passes_its_tests_and_the_check_of_its_example(kgen, tmp_path: Path) -> None:
    outcome = kgen("plugins", "new", "mine", "--kind", "metric", cwd=tmp_path)
    assert outcome.status == 0 and "kgen check kgen-plugin-mine/example.yaml" in outcome.out, outcome
    package = tmp_path / "kgen-plugin-mine"
    with installed(package, tmp_path / "site"):
        assert run_tests(package / "tests" / "test_colorfulness.py") > 10
        paths = os.pathsep.join([str(package), str(tmp_path / "site")])
        checked = kgen("check", package / "example.yaml", cwd=tmp_path, PYTHONPATH=paths)
        assert (checked.status, checked.err) == (0, ""), checked


@pytest.mark.portable
def test_the_tests_of_a_package_use_the_backend_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Keras alone would look for TensorFlow."""
    environ = {"KERAS_HOME": str(tmp_path)}
    monkeypatch.setattr("kgen.backend.selection.os.environ", environ)
    monkeypatch.setattr("kgen.backend.selection.installed", lambda name: name == "torch")
    runpy.run_path(str(new_plugin("mine", "metric", tmp_path) / "tests" / "conftest.py"))
    assert environ["KERAS_BACKEND"] == "torch"


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.portable
@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("", "metric", "a plugin's name is lower case letters and digits"),
        ("My_Plugin", "metric", "it is not 'My_Plugin'; did you mean 'my-plugin'?"),
        ("../mine", "metric", "it is not '../mine'; did you mean 'mine'?"),
        ("3d", "metric", "begins with a letter, and has at most 40 characters; it is not '3d'; did you mean 'd'?"),
        ("ünï", "metric", "it is not 'ünï'; did you mean 'uni'?"),
        ("a" * (MAX_NAME + 1), "metric", "has at most 40 characters"),
        ("kgen-plugin-mine", "metric", "give the name without 'kgen-plugin-': mine"),
        ("kgen", "metric", "there is a plugin 'kgen' already (kgen-core 0."),
        ("toy", "metric", "there is a plugin 'toy' already (kgen-plugin-toy 1.2): choose another name"),
        ("mine", "metrics", "there is no template for the kind 'metrics': give --kind with one of encoder, generator"),
        ("mine", "common", "there is no template for the kind 'common'"),
        ("mine", "nobody.sampler", "there is no template for the kind 'nobody.sampler'"),
    ],
)
def test_wrong_names_and_kinds_are_refused(kgen, tmp_path: Path, name: str, kind: str, message: str) -> None:
    kgen("plugins", "new", name, "--kind", kind, cwd=tmp_path).refuses(message)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_never_overwritten(kgen, tmp_path: Path) -> None:
    place = tmp_path / "kgen-plugin-mine"
    message = "kgen-plugin-mine already exists: choose another name, or move it away"
    place.mkdir()  # also an empty folder
    kgen("plugins", "new", "mine", "--kind", "dataset", cwd=tmp_path).refuses(message)
    assert list(place.iterdir()) == []
    place.rmdir()
    place.symlink_to("nowhere")
    kgen("plugins", "new", "mine", "--kind", "dataset", cwd=tmp_path).refuses(message)
    place.unlink()
    place.write_text("mine")
    kgen("plugins", "new", "mine", "--kind", "dataset", cwd=tmp_path).refuses(message)
    assert place.read_text() == "mine" and [*tmp_path.iterdir()] == [place]


def test_caches_beside_the_templates_are_left_out(tmp_path: Path) -> None:
    shutil.copytree(TEMPLATES / "logger", tmp_path / "logger")
    for name in ("__pycache__/lines.cpython-311.pyc", ".ruff_cache/1", "kgen_plugin_yourname/__pycache__/lines.pyc"):
        (tmp_path / "logger" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "logger" / name).write_bytes(b"\x8f")
    assert render(tmp_path / "logger", "a", "logger") == render(TEMPLATES / "logger", "a", "logger")


@pytest.mark.portable
def test_a_plugin_has_templates_for_the_kinds_that_it_declares(site, tmp_path: Path) -> None:
    package = site.path / "made_parts"
    (package / "templates" / "part" / "kgen_plugin_yourname").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "contract.py").write_text("class Part: pass\n")
    (package / "templates" / "part" / "kgen_plugin_yourname" / "plugin.py").write_text("KGEN_API = 1  # yourkind\n")
    site.install(
        "parts",
        "import kgen\n\n\n@kgen.hookimpl\ndef kgen_components(registry):\n"
        "    registry.kind('parts.part', 'made_parts.contract:Part', summary='Parts')\n"
        "    registry.kind('parts.other', 'made_parts.contract:Part', summary='Others')\n",
    )
    registry.cache_clear()
    try:
        assert "parts.part" in kinds_with_templates() and "parts.other" not in kinds_with_templates()
        made = new_plugin("mine", "parts.part", tmp_path)
        assert (made / "kgen_plugin_mine" / "plugin.py").read_text() == "KGEN_API = 1  # parts.part\n"
        with pytest.raises(ConfigError, match=r"there is no template for the kind 'parts.other'.*, parts.part$"):
            new_plugin("other", "parts.other", tmp_path)
    finally:
        registry.cache_clear()


# ---- all kinds, in full -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.backends
@pytest.mark.parametrize("kind", kinds_with_templates())
def test_a_package_of_each_kind_installs_and_passes_its_tests(kind: str, tmp_path: Path) -> None:
    """Its tests contain the conformance kit and `kgen check` of the example."""
    package = new_plugin("mine", kind, tmp_path)
    site = tmp_path / "site"
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--quiet", "--target", str(site)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *offline, str(package)]
    subprocess.run(pip, check=True)
    env = environment(KERAS_BACKEND=keras.backend.backend(), PYTHONPATH=str(site))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "a" * MAX_NAME])
def test_packages_pass_the_linters(name: str, tmp_path: Path) -> None:
    """Also with a short and a long name, which changes the lengths of lines."""
    for tool in ("ruff", "mypy"):
        pytest.importorskip(tool)
    for kind in kinds_with_templates():
        package = new_plugin(name, kind, tmp_path / kind)
        config = ["--config-file", ROOT / "pyproject.toml", "--cache-dir", tmp_path / "mypy"]
        config += ["--allow-subclassing-any", "--follow-imports", "silent"]  # `make lint` checks kgen itself
        for command in (
            ["ruff", "check", "--select", "B,C4,E,F,I,N,RUF,SIM,UP,W", "--no-cache", package],
            ["ruff", "format", "--check", "--no-cache", package],
            ["mypy", *config, package / f"kgen_plugin_{name}"],
        ):
            done = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True)
            assert done.returncode == 0, f"{kind}: {done.stdout}{done.stderr}"


def test_all_kinds_of_kgen_have_a_template() -> None:
    """The template "model" is that of the package of a trained model."""
    assert [path.name for path in sorted(TEMPLATES.iterdir()) if path.is_dir()] == sorted([*KINDS, "common", "model"])
    assert discover([]).broken == {}
