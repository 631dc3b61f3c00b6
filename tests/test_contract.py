"""The number of the contract, in plugins and in everything that kgen saves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import kgen
from kgen.cli.commands.plugins import list_plugins
from kgen.errors import RunError
from kgen.experiments.directory import RunDirectory
from kgen.experiments.manifest import current_timings
from kgen.plugins import discovery
from kgen.plugins.discovery import discover, running
from kgen.plugins.hookspecs import API
from kgen.plugins.migrations import MIGRATIONS, migrate
from kgen.storage.weights import read_metadata
from kgen.training.checkpoint import Checkpoints

OLD = Path(__file__).parent / "fixtures" / "contract-0"
"""A run and two of its images, by a version of kgen before the contract had a number: commit ff9fd95, on TensorFlow."""

PLUGIN = """
import kgen

{declaration}

@kgen.hookimpl
def kgen_components(registry):
    registry.encoder("apple", "nowhere:Nothing", summary="Made for a test")
"""


@pytest.mark.parametrize(
    "declaration, reason",
    [
        ("", None),
        (f"KGEN_API = {API}", None),
        (
            f"KGEN_API = {API + 1}",
            f"it was written for contract {API + 1} of kgen, and this is {running()}, with contract {API}: upgrade "
            "kgen ('pip install --upgrade kgen-core'), or install an older kgen-plugin-fruit",
        ),
        (
            "KGEN_API = 0",
            f"it was written for contract 0 of kgen, and this is {running()}, with contract {API}: upgrade it "
            "('pip install --upgrade kgen-plugin-fruit')",
        ),
        ("KGEN_API = '1'", "KGEN_API must be the number of a contract, such as 1, not '1'"),
        ("KGEN_API = True", "KGEN_API must be the number of a contract, such as 1, not True"),
    ],
)
def test_a_plugin_of_another_contract_is_listed_and_not_used(
    site, capsys, monkeypatch, declaration: str, reason: str | None
) -> None:
    site.install("fruit", PLUGIN.format(declaration=declaration))
    site.install("nuts", PLUGIN.format(declaration=""))
    found = discover(site.entry_points())
    ids = [component.id for component in found.of_kind("encoder") if component.origin.namespace != "kgen"]
    assert ids == (["nuts/apple"] if reason else ["fruit/apple", "nuts/apple"])
    assert list(found.broken.values()) == ([reason] if reason else [])
    monkeypatch.setattr(discovery, "registry", lambda: found)
    list_plugins()
    word = "incompatible" if "contract" in (reason or "") and "must" not in (reason or "") else "broken"
    line = f"{word}: plugin 'fruit' of kgen-plugin-fruit 0.5: {reason}\n"
    assert (line in capsys.readouterr().out) == bool(reason)


def test_an_object_or_its_module_declares_the_contract(site) -> None:
    source = PLUGIN.format(declaration=f"KGEN_API = {API + 1}").replace("(registry)", "(self, registry)")
    head, _, hook = source.partition("@")
    body = "\n".join(f"    {line}" for line in f"@{hook}".splitlines())
    module = site.install("fruit", f"{head}\nclass Plugin:\n{body}\nplugin = Plugin()\n", value="PLACEHOLDER:plugin")
    entry_points = site.path / "kgen_plugin_fruit-0.5.dist-info" / "entry_points.txt"
    entry_points.write_text(f"[kgen]\nfruit = {module}:plugin\n", encoding="utf-8")
    [reason] = discover(site.entry_points()).broken.values()
    assert reason.startswith(f"it was written for contract {API + 1} of kgen")


def test_every_plugin_of_this_repository_declares_its_contract() -> None:
    modules = list((Path(__file__).parents[1] / "plugins").glob("*/kgen_plugin_*/plugin.py"))
    assert len(modules) >= 10
    assert [path for path in modules if f"\nKGEN_API = {API}\n" not in path.read_text()] == []


def test_a_run_of_contract_0_loads_and_makes_the_same_images() -> None:
    assert "api" not in json.loads((OLD / "run" / "manifest.json").read_text())
    pipeline = kgen.load(OLD / "run")
    made = pipeline.generate(["a small red circle", "blue"], seed=3, sampler="ddim", steps=4, guidance=2.0)
    assert np.abs(made.astype(int) - np.load(OLD / "images.npy")).max() <= 1


def test_saving_again_writes_the_current_contract(tmp_path: Path) -> None:
    kgen.load(OLD / "run").save(tmp_path / "model")
    description = yaml.safe_load((tmp_path / "model" / "pipeline.yaml").read_text())
    assert description["api"] == API and "format" not in description
    assert read_metadata(tmp_path / "model" / "weights.safetensors")["api"] == str(API)
    directory = RunDirectory(shutil.copytree(OLD / "run", tmp_path / "run"))
    directory.update_manifest(step=4)
    assert json.loads(directory.manifest.read_text())["api"] == API


@pytest.mark.parametrize(
    "number, message",
    [
        (
            API + 1,
            f"was saved under contract {API + 1} of kgen, and this is {running()}, with contract {API}: upgrade "
            r"kgen to read it \('pip install --upgrade kgen-core', and its plugins\)",
        ),
        (-1, "is damaged: api: must be the number of a contract, got '-1'"),
        ("new", "is damaged: api: must be the number of a contract, got 'new'"),
    ],
)
def test_files_of_another_contract_are_refused(tmp_path: Path, number: object, message: str) -> None:
    run = Path(shutil.copytree(OLD / "run", tmp_path / "run"))
    description = run / "model" / "pipeline.yaml"
    whole = {**yaml.safe_load(description.read_text()), "more": 1, "api": number}
    description.write_text(yaml.safe_dump(whole))
    with pytest.raises(RunError, match=f"pipeline.yaml {message}"):
        kgen.load(run)
    manifest = run / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "api": number, "step": "of another type"}))
    with pytest.raises(RunError, match=f"manifest.json {message}"):
        RunDirectory(run).require_run()


def test_a_checkpoint_of_another_contract_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    file = tmp_path / "step-00000004.safetensors"
    old = OLD / "run" / "checkpoints" / file.name
    save_file(load_file(old), file, metadata={**read_metadata(old), "api": str(API + 1)})
    with pytest.raises(RunError, match=f"{file.name} was saved under contract {API + 1} of kgen"):
        Checkpoints(tmp_path, 1).restore(None, last=4)  # type: ignore[arg-type]


def test_there_is_a_migration_for_every_step() -> None:
    for file, steps in MIGRATIONS.items():
        assert len(steps) == API, file
        assert migrate(file, {}, Path()) == {"api": API} == migrate(file, {"api": API}, Path())
    assert migrate("description", {"format": 1, "dtype": "float32"}, Path()) == {"dtype": "float32", "api": API}
    assert migrate("manifest", {"format": 1}, Path()) == {"format": 1, "api": API}


def test_times_of_older_manifests_have_their_current_names() -> None:
    timings = RunDirectory(OLD / "run").read_manifest()["timings"]
    assert timings == {"training_seconds": 5.6, "drawing_seconds": 6.8}
    assert current_timings(timings) == {"training_seconds": 5.6, "sampling_seconds": 6.8}
