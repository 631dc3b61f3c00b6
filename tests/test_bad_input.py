"""Bad input through the real command line: status 2, one clear message, no traceback."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from command_line import GOOD, TOY, Trained
from PIL import Image


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---- before the framework is loaded --------------------------------------------------------------


def test_a_file_that_is_missing(kgen, tmp_path: Path) -> None:
    kgen("run", tmp_path / "no.yaml").refuses(f"error: {tmp_path}/no.yaml: there is no such file")


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "bad.yaml:1: anchors (&a) are not allowed"),
        ("data: !!python/object/apply:os.system ['touch pwned']\n", "bad.yaml:1: tags (tag:yaml.org,2002:python/"),
        ("fit: {steps: 3\n", "is not valid YAML"),
    ],
)
def test_dangerous_or_invalid_yaml_is_refused(kgen, tmp_path: Path, text: str, message: str) -> None:
    kgen("run", write(tmp_path / "bad.yaml", text), cwd=tmp_path).refuses(message)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_an_output_that_cannot_be_written(kgen, trained: Trained, tmp_path: Path) -> None:
    write(tmp_path / "file", "")
    outcome = kgen("generate", trained.directory, "red", "-o", tmp_path / "file" / "sub" / "x.png")
    outcome.refuses(f"{tmp_path}/file", "Not a directory")
    kgen("generate", trained.directory, "red", "-o", "x.jpg").refuses("x.jpg: must end with '.png'")
    if os.geteuid():
        tmp_path.chmod(0o500)
        kgen("generate", trained.directory, "red", "-o", tmp_path / "x.png").refuses("Permission denied")


def test_a_run_that_is_not_there(kgen, trained: Trained, tmp_path: Path) -> None:
    missing = trained.directory.with_name("godo")
    kgen("generate", missing, "red").refuses(
        f"there is no run directory {missing}: existing runs are {trained.directory}"
    )
    kgen("evaluate", tmp_path / "x").refuses(f"there is no run directory {tmp_path}/x: train one with 'kgen run")
    kgen("evaluate", trained.config).refuses("is a file: give a run directory")


def test_a_prompt_that_is_not_a_text(kgen, trained: Trained) -> None:
    kgen("generate", trained.directory, os.fsdecode(b"\xff")).refuses("is not UTF-8 text")


# ---- configurations ------------------------------------------------------------------------------


def test_keys_components_types_ranges_and_overrides_are_all_reported_at_once(kgen, tmp_path: Path) -> None:
    text = GOOD.replace("learning_rate: 0.05", "learning_rate: -1").replace("steps: 6", "steps: six")
    text = text.replace("letters", "{name: lettres}").replace("held", "hedl") + "precison: float32\n"
    path = write(tmp_path / "bad.yaml", text)
    outcome = kgen("run", path, "--set", "fit.stpes=10", "--set", "sample.options.strength=-1", cwd=tmp_path)
    outcome.refuses(
        f"{path}:1: data.hedl: unknown key; did you mean 'held'? (toy/squares takes: size, colors, held)",
        f"{path}:2: encoder: unknown encoder 'lettres': did you mean 'letters'",
        f"{path}:4: fit.steps: must be a whole number, got 'six'",
        f"{path}:4: fit.learning_rate: must be greater than 0, got -1",
        f"{path}:7: precison: unknown key; did you mean 'precision'?",
        "--set fit.stpes=10: fit.stpes: unknown key; did you mean 'steps'?",
        "--set sample.options.strength=-1: sample.options.strength: must be greater than or equal to 0, got -1",
    )
    assert len(outcome.err.splitlines()) == 7
    assert not (tmp_path / "runs").exists()


def test_parts_that_do_not_fit_and_data_that_is_not_there(kgen, tmp_path: Path, site) -> None:
    """One process checks several files: each gets one message, and those in order are still built."""
    site.install("sour", "import a_module_that_is_not_there")
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (8, 8)).save(images / "there.png")
    rows = [{"file_name": "there.png", "text": "red"}, {"file_name": "gone.png", "text": "green"}]
    write(images / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "empty").mkdir()
    data = "data: {name: squares, colors: [red, green], held: true}"
    assert data in GOOD
    changes = {
        "tokens": ("toy/means", "{name: toy/tokens, vocabulary: 4}"),
        "stride": ("toy/means", "{name: toy/means, stride: 3}"),
        "missing": (data, f"data: {{name: imagefolder, path: {tmp_path}/nowhere}}"),
        "empty": (data, f"data: {{name: imagefolder, path: {tmp_path}/empty}}"),
        "gone": (data, f"data: {{name: imagefolder, path: {images}}}"),
        "sour": ("letters", "sour/lemon"),
        "fine": ("toy/means", "toy/means"),
    }
    paths = {name: write(tmp_path / f"{name}.yaml", GOOD.replace(*change)) for name, change in changes.items()}
    before = sorted(tmp_path.iterdir())
    outcome = kgen("check", *paths.values(), cwd=tmp_path, PYTHONPATH=f"{TOY}{os.pathsep}{site.path}")
    assert outcome.status == 2 and "Traceback" not in outcome.err
    assert outcome.out == f"{paths['fine']}: ok\n" and sorted(tmp_path.iterdir()) == before
    lines = re.sub(
        r"\n(?!error:)", " ", outcome.err.strip()
    ).splitlines()  # a list of problems goes on in indented lines
    messages = {path.stem: line for path in paths.values() for line in lines if str(path) in line}
    assert set(messages) == set(paths) - {"fine"} and len(lines) == len(messages), outcome.err
    assert "generator 'toy/tokens' models tokens latents, but decoder 'kgen/identity' makes 8x8x3" in messages["tokens"]
    assert "stride of 3, which does not divide images of 8x8x3" in messages["stride"]
    assert f"{tmp_path}/nowhere" in messages["missing"]
    assert f"{tmp_path}/empty" in messages["empty"]
    assert "gone.png" in messages["gone"]
    assert "plugin 'sour' (kgen-plugin-sour) could not be loaded: ModuleNotFoundError" in messages["sour"]


# ---- runs ----------------------------------------------------------------------------------------


def test_a_run_directory_of_a_different_configuration(kgen, trained: Trained) -> None:
    before = (trained.directory / "config.yaml").read_text()
    outcome = kgen("run", trained.config, "--set", "fit.learning_rate=0.5", cwd=trained.config.parent)
    outcome.refuses("runs/good", "fit.learning_rate: 0.05 there, 0.5 now", "--restart")
    assert (trained.directory / "config.yaml").read_text() == before


def test_a_run_directory_that_cannot_be_made(kgen, good: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "file", "")
    kgen("run", good, "--out", file / "run").refuses(f"{file}", "Not a directory")


def test_generating_with_unknown_options_or_without_a_run(kgen, trained: Trained, tmp_path: Path) -> None:
    outcome = kgen("generate", trained.directory, "red", "--set", "stpes=3", "--set", "strength=x", cwd=tmp_path)
    outcome.refuses(
        "--set stpes=3: stpes: unknown key; did you mean 'steps'? (Means.generate takes: strength, steps)",
        "--set strength=x: strength: must be a number, got 'x'",
    )
    kgen("generate", tmp_path, "red").refuses(f"{tmp_path} holds no trained pipeline")
    assert not list(tmp_path.iterdir())


DIFFUSION = """\
data: {name: squares, colors: [red, green]}
encoder: letters
generator: {name: diffusion/diffusion, network: {kind: dit, patch: 4, width: 8, depth: 1, heads: 1}}
fit: {steps: 1, batch_size: 4}
sample: {every: 0, options: {steps: 2, spacing: leading}}
evaluate: {metrics: []}
"""


@pytest.mark.portable
def test_steps_that_a_spacing_does_not_have(kgen, tmp_path: Path) -> None:
    """They are refused before the training, and before the sampling, although `kgen run` tries two steps first."""
    message = "steps: 1001 does not fit into the 1000 discrete times"
    config = write(tmp_path / "small.yaml", DIFFUSION)
    kgen("run", config, "--set", "sample.options.steps=1001", cwd=tmp_path).refuses(message)
    assert kgen("run", config, cwd=tmp_path).status == 0
    kgen("generate", "runs/small", "red", "--set", "steps=1001", "--set", "spacing=leading", cwd=tmp_path).refuses(
        message
    )
