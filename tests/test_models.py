"""Installed models: packages of trained pipelines, which every command finds by their names, and leaves as they are."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command_line import TOY, Trained
from made_plugins import Site

import kgen
from kgen.authoring import pack_model
from kgen.cli.diagnosis import Report, _models
from kgen.errors import ConfigError, PluginError, RunError
from kgen.experiments.directory import RunDirectory
from kgen.plugins.hookspecs import API
from kgen.plugins.models import find_models, find_run
from kgen.storage.weights import read_arrays

pytestmark = pytest.mark.portable


def declare(site: Path, name: str, package: str, *, distribution: str = "", requires: str = "kgen-core>=0.1") -> None:
    """Declares a model as an installed distribution does."""
    distribution = distribution or f"kgen-model-{name}"
    info = site / f"{distribution.replace('-', '_')}-0.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.5\nRequires-Dist: {requires}\n"
    )
    (info / "entry_points.txt").write_text(f"[kgen.models]\n{name} = {package}\n")


def described(folder: Path, text: str) -> None:
    """Writes a package whose model has this description."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "pipeline.yaml").write_text(text)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def package(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the trained run, with weights of 16 bits. It is installed in its own folder."""
    made = pack_model(trained.directory, "mine", "MIT", tmp_path_factory.mktemp("models"), half=True)
    project = tomllib.loads((made / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "kgen-model-mine" and project["license"] == "MIT"
    assert "kgen-core>=0.1,<0.2" in project["dependencies"]
    assert "kgen-plugin-toy>=1.2,<2" in project["dependencies"]
    ((name, value),) = project["entry-points"]["kgen.models"].items()
    declare(made, name, value)
    return made


@pytest.fixture
def path(package: Path) -> str:
    """The PYTHONPATH with which the package is installed."""
    return os.pathsep.join([str(TOY), str(package)])


def test_a_package_contains_the_run_without_checkpoints(package: Path, trained: Trained) -> None:
    folder = package / "kgen_model_mine" / "mine"
    there = {name for name in contents(folder) if not name.startswith("model/")}
    assert there >= {"config.yaml", "manifest.json", "metrics.csv", "evaluation.json", "samples/final.png"}
    assert not [name for name in there if "checkpoint" in name or "tensorboard" in name]
    arrays = read_arrays(folder / "model" / "weights.safetensors")[0]
    original = read_arrays(trained.directory / "model" / "weights.safetensors")[0]
    assert {array.dtype for array in arrays.values() if array.dtype.kind == "f"} == {np.dtype(np.float16)}
    assert all(np.allclose(arrays[name], original[name], rtol=1e-3, atol=1e-6) for name in original)
    text = (package / "README.md").read_text(encoding="utf-8")
    assert 'kgen generate mine "PROMPT"' in text and "yourname" not in text and "License: MIT." in text


def test_commands_take_the_name_of_a_model_and_write_nothing_into_it(kgen, package, path, tmp_path: Path) -> None:
    before = contents(package)
    made = kgen("generate", "mine", "red", cwd=tmp_path, PYTHONPATH=path)
    assert made.out == "red.png\n" and (tmp_path / "red.png").is_file(), made
    scored = kgen("evaluate", "mine", cwd=tmp_path, PYTHONPATH=path)
    assert scored.status == 0 and "written to mine-evaluation.json" in scored.out, scored
    results = json.loads((tmp_path / "mine-evaluation.json").read_text())
    assert results["title"] == "kgen evaluation" and results["results"]
    listed = kgen("weights", "mine", cwd=tmp_path, PYTHONPATH=path)
    assert "parameters" in listed.out, listed
    assert contents(package) == before
    shown = kgen("models", "list", cwd=tmp_path, PYTHONPATH=path)
    assert "kgen-model-mine 0.5" in shown.out and "kgen generate mine PROMPT" in shown.out, shown
    missing = kgen("generate", "mien", "red", cwd=tmp_path, PYTHONPATH=path)
    missing.refuses("there is no run directory mien: train one with 'kgen run CONFIG'; installed models are mine")


def test_a_path_comes_first_and_a_warning_names_both(package, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.chdir(tmp_path)
    assert find_run("mine") == package / "kgen_model_mine" / "mine"
    assert find_run("runs/mine") == Path("runs/mine")
    (tmp_path / "mine").mkdir()
    with pytest.warns(match="mine in the current folder is used, and not the model 'mine' of kgen-model-mine 0.5"):
        assert find_run("mine") == Path("mine")


def test_python_loads_a_model_by_its_name(package, toy, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.chdir(tmp_path)
    pipeline = kgen.load("mine")
    assert pipeline.generate(["red"], seed=1).dtype == np.uint8
    assert kgen.open_config("mine").name == "good"
    writes = RunDirectory(find_run("mine")).locked()
    with pytest.raises(RunError, match="belongs to an installed model, into which kgen writes nothing"), writes:
        pass


def test_a_model_of_kgen_that_is_not_installed_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: ())
    with pytest.raises(RunError, match=r"'openmoji' is not installed: pip install kgen-model-openmoji$"):
        kgen.load("openmoji")


def test_models_that_cannot_be_used_are_listed_with_the_reason(site: Site, monkeypatch) -> None:
    described(site.path / "made_new" / "new", f"api: {API + 1}\n")
    described(site.path / "made_good" / "good", f"api: {API}\n")
    described(site.path / "made_old" / "old", f"api: {API}\n")
    (site.path / "made_empty").mkdir()
    for name in ("new", "good", "empty", "gone"):
        declare(site.path, name, f"made_{name}")
    declare(site.path, "old", "made_old", requires="kgen-core<0.1")
    declare(site.path, "dotted", "made_good.inner")
    declare(site.path, "twice", "made_good", distribution="one")
    declare(site.path, "twice", "made_good", distribution="other")
    found = find_models(site.entry_points())
    reasons = {
        "dotted": "its entry point must name a package without dots, not 'made_good.inner'",
        "empty": "contains no trained pipeline (model/pipeline.yaml): install it again",
        "gone": "there is no package 'made_gone': install it again",
        "good": "",
        "new": f"was saved under contract {API + 1} of kgen",
        "old": "it needs kgen-core<0.1, but this is kgen-core",
        "twice": "one and other have a model of this name: uninstall one of the two",
    }
    assert list(found) == list(reasons)
    for name, reason in reasons.items():
        assert reason in found[name].fault and bool(reason) == bool(found[name].fault), found[name]
    with pytest.raises(PluginError, match=r"the model 'gone' of kgen-model-gone 0\.5 cannot be used: there is no"):
        find_run("gone")
    report = Report()
    _models(report)
    assert "  kgen-model-good 0.5 (good): works" in report.lines
    assert "  kgen-model-new 0.5 (new): does not work" in report.lines and len(report.problems) == len(reasons) - 1


def test_what_cannot_be_packed(kgen, package, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "kgen-model-there").mkdir()
    for name, message in (
        ("kgen-model-x", "give the name without 'kgen-model-': x"),
        ("Mine", "a model's name is lower case letters.* did you mean 'mine'"),
        ("there", "kgen-model-there already exists"),
    ):
        with pytest.raises(ConfigError, match=message):
            pack_model(trained.directory, name, "MIT", tmp_path)
    with pytest.raises(ConfigError, match=r"the license 'not a license' is not an SPDX expression: give one such as"):
        pack_model(trained.directory, "mine", "not a license", tmp_path)
    manifest = RunDirectory(tmp_path / "run").manifest
    manifest.parent.mkdir()
    manifest.write_text('{"api": 1}')
    with pytest.raises(RunError, match="run is not finished: finish its training first"):
        pack_model(tmp_path / "run", "mine", "MIT", tmp_path)
    packed = kgen("models", "pack", trained.directory, "own", "--license", "MIT", cwd=tmp_path)
    assert packed.status == 0 and "pip install ./kgen-model-own\n" in packed.out, packed
