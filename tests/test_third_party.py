"""A package of one file, installed by pip, adds a callback, a logger and a command, and clashes with another."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from command_line import GOOD, TOY
from pages import examples, read_page

from kgen.evaluation.results import read_results, to_scores

pytestmark = pytest.mark.portable

MODULE = '''
"""A callback, a logger and a command."""

import json
from pathlib import Path
from typing import Annotated

import keras
from pydantic import Field

import kgen

KGEN_API = 1


class Notes(keras.callbacks.Callback):
    """Notes the loss in the file notes.txt.

    Args:
        every: Steps between notes.
    """

    def __init__(self, directory, *, every: Annotated[int, Field(ge=1)] = 1):
        super().__init__()
        self.file, self.every = directory / "notes.txt", every

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % self.every == 0:
            with self.file.open("a") as file:
                file.write(f"{batch + 1} {logs['loss']:.7g}\\n")


class Lines(kgen.Logger):
    """Writes all that it is told into the file lines.jsonl.

    Args:
        label: Stands in every line.
    """

    def __init__(self, directory: Path, *, label: str = "run"):
        super().__init__()
        self.directory, self.label = directory, label

    def write(self, what, *more):
        with (self.directory / "lines.jsonl").open("a") as file:
            file.write(json.dumps([self.label, what, *more]) + "\\n")

    def begin(self, config):
        self.write("begin", config["name"])

    def resume(self, stage, step):
        self.write("resume", stage, step)

    def log(self, stage, step, values):
        self.write("log", stage, step, values)

    def image(self, stage, step, name, image):
        self.write("image", stage, step, name, image.shape, str(image.dtype))

    def end(self, scores):
        self.write("end", scores)


def count_lines(run: Path) -> None:
    """Counts the lines of a run."""
    print(len((run / "lines.jsonl").read_text().splitlines()), "lines")


@kgen.hookimpl
def kgen_components(registry):
    registry.callback("notes", f"{__name__}:Notes", summary="Notes the loss")
    registry.logger("lines", f"{__name__}:Lines", summary="Lines of JSON")


@kgen.hookimpl
def kgen_commands(commands):
    commands.add("count-lines", f"{__name__}:count_lines", summary="Counts the lines of a run")
'''

PROJECT = """\
[project]
name = "{name}"
version = "1.2"
dependencies = ["kgen-core>=0.1"]

[project.entry-points.kgen]
{namespace} = "{module}"

[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[tool.setuptools]
py-modules = ["{module}"]
"""


def pip_install(folder: Path, target: Path, name: str, namespace: str) -> None:
    """Makes a distribution of one module, and has pip install it into a folder."""
    module = name.replace("-", "_")
    folder.mkdir(parents=True)
    (folder / f"{module}.py").write_text(MODULE, encoding="utf-8")
    (folder / "pyproject.toml").write_text(PROJECT.format(name=name, namespace=namespace, module=module))
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--quiet"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *offline, "--target", target]
    done = subprocess.run([*command, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("stranger")
    pip_install(folder / "source", folder / "site", "strangers-log", "stranger")
    yield folder / "site"
    for module in [name for name in sys.modules if name in ("strangers_log", "rivals_log")]:
        del sys.modules[module]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    data = yaml.safe_load(GOOD)
    data["fit"] |= {"callbacks": [{"name": "notes", "every": 2}], "log_every": 3}
    data["loggers"] = ["tensorboard", {"name": "stranger/lines", "label": "mine"}]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return tmp_path / "run.yaml"


def test_a_callback_a_logger_and_a_command_of_another_package(kgen, installed: Path, config: Path) -> None:
    where = {"cwd": config.parent, "PYTHONPATH": f"{installed}:{TOY}"}
    done = kgen("run", config, **where)
    assert done.status == 0, done
    run = config.parent / "runs" / "run"
    notes = [line.split()[0] for line in (run / "notes.txt").read_text().splitlines()]
    assert notes == ["2", "4", "6"]
    lines = [json.loads(line) for line in (run / "lines.jsonl").read_text().splitlines()]
    assert {label for label, *_ in lines} == {"mine"}
    told = [line[1:] for line in lines]
    assert told[0] == ["begin", "run"] and told[1] == ["resume", "generator", 0]
    assert told[-1] == ["end", to_scores(read_results(run / "evaluation.json"))]
    losses = {step: values["loss"] for what, _, step, values in (t for t in told if t[0] == "log") if "loss" in values}
    assert list(losses) == [3, 6]
    images = [t[1:] for t in told if t[0] == "image"]
    assert ["generator", 3, "samples"] in [image[:3] for image in images] and {i[4] for i in images} == {"uint8"}
    assert list((run / "tensorboard").iterdir())
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["callbacks"] == [{"id": "stranger/notes", "distribution": "strangers-log", "version": "1.2"}]
    assert [logger["id"] for logger in manifest["loggers"]] == ["kgen/tensorboard", "stranger/lines"]
    assert kgen("count-lines", run, **where).out == f"{len(lines)} lines\n"
    assert kgen("evaluate", run, **where).status == 0
    after = [json.loads(line)[1:] for line in (run / "lines.jsonl").read_text().splitlines()[len(lines) :]]
    assert [line[0] for line in after] == ["begin", "end"] and after[1] == told[-1]


def test_they_are_shown_and_checked(kgen, installed: Path, config: Path) -> None:
    where = {"cwd": config.parent, "PYTHONPATH": f"{installed}:{TOY}"}
    plugin = kgen("plugins", "show", "stranger", **where).out
    assert (
        "  callback stranger/notes: Notes the loss\n" in plugin and "  logger stranger/lines: Lines of JSON" in plugin
    )
    shown = " ".join(kgen("plugins", "show", "notes", **where).out.split())
    assert "Notes the loss in the file notes.txt." in shown and "every int >= 1 1" in shown
    assert "label text" in " ".join(kgen("plugins", "show", "stranger/lines", **where).out.split())
    schema = json.loads(kgen("schema", **where).out)
    assert "every" in json.dumps(schema["$defs"]["callback"]) and "label" in json.dumps(schema["$defs"]["logger"])
    checked = kgen("check", config, **where)
    assert checked.status == 0 and not (config.parent / "runs").exists(), checked
    text = config.read_text()
    config.write_text(text.replace("every: 2", "evry: 2").replace("label: mine", "label: 3"), encoding="utf-8")
    kgen("check", config, **where).refuses(
        "fit.callbacks[0].evry: unknown key; did you mean 'every'? (stranger/notes takes: every)",
        "loggers[1].label: must be text, got 3",
    )
    config.write_text(text.replace("name: notes", "name: ntes").replace("- tensorboard", "- tensorbord"))
    kgen("check", config, **where).refuses(
        "fit.callbacks[0]: unknown callback 'ntes': did you mean 'notes'",
        "loggers[0]: unknown logger 'tensorbord': did you mean 'tensorboard'",
    )


def test_two_packages_with_the_same_names_are_both_named(kgen, installed: Path, config: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip_install(tmp_path / "source", site, "rivals-log", "rival")
    where = {"cwd": config.parent, "PYTHONPATH": f"{installed}:{site}:{TOY}"}
    kgen("check", config, **where).refuses(
        "callback 'notes' is ambiguous: write one of 'rival/notes' (of rivals-log), 'stranger/notes' (of strangers-log)"
    )
    kgen("count-lines", tmp_path, **where).refuses(
        "command 'count-lines' of ", "has the same name: uninstall one of the two"
    )
    config.write_text(config.read_text().replace("name: notes", "name: rival/notes"), encoding="utf-8")
    assert kgen("check", config, **where).status == 0


def test_two_packages_of_one_namespace_are_both_refused(kgen, installed: Path, config: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip_install(tmp_path / "source", site, "rivals-log", "stranger")
    where = {"cwd": config.parent, "PYTHONPATH": f"{installed}:{site}:{TOY}"}
    kgen("check", config, **where).refuses(
        "plugin 'stranger' (strangers-log) could not be loaded: rivals-log claims the namespace 'stranger' too: "
        "uninstall one of the two"
    )


def test_the_example_of_the_guide_adds_all_three(kgen, site, tmp_path: Path) -> None:
    (example,) = examples(read_page("docs/guides/plugins/training.md"), "python", "class Notes")
    (run_file,) = examples(read_page("docs/guides/training.md"), "yaml", "loggers:")
    site.install("mine", example)
    shown = yaml.safe_load(run_file)
    data = yaml.safe_load(GOOD)
    data["fit"] |= {**shown["fit"], "steps": 20, "optimizer": {"name": "sign-descent", "scale": 0.5}}
    data["loggers"] = ["lines"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    done = kgen("run", "run.yaml", "--set", "fit.log_every=10", cwd=tmp_path, PYTHONPATH=f"{site.path}:{TOY}")
    assert done.status == 0, done
    notes, lines = (
        (tmp_path / "runs" / "run" / name).read_text().splitlines() for name in ("notes.txt", "lines.jsonl")
    )
    assert [line.split()[0] for line in notes] == ["10", "20"]
    logged = [json.loads(line) for line in lines]
    assert [row["step"] for row in logged if "loss" in row] == [10, 20]
