"""What the page does, without a browser."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kgen_plugin_studio.fields import Field, settings_of
from kgen_plugin_studio.image_commands import COMMANDS
from kgen_plugin_studio.runs import find_runs, summarize
from kgen_plugin_studio.studio import Studio
from kgen_plugin_studio.training import read_progress, stop
from kgen_plugin_studio.uploads import keep_image, keep_mask
from PIL import Image

import kgen
from kgen.plugins.models import InstalledModel

pytestmark = pytest.mark.portable


@pytest.fixture
def studio(run: Path, tmp_path: Path) -> Studio:
    return Studio({"tiny": run}, tmp_path / "studio")


def test_images_are_those_of_the_command_that_the_page_shows(
    run: Path, tmp_path: Path, execute: Callable[[str], None]
) -> None:
    request = kgen.ImageRequest(
        run=run, prompts=("red heart", "-blue star"), number=2, seed=7, settings=("steps=2", "guidance=3")
    )
    studio = Studio({str(run): run}, tmp_path / "studio")
    outcome = studio.generate([str(run)], request)
    files = [path for path, name in outcome.files]
    assert len(files) == 4 and not [text for text in outcome.messages if text.startswith("error")]
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    (line,) = outcome.commands
    execute(line)
    assert [path.read_bytes() for path in files] == before
    assert studio.generate([str(run)], request).files[0][0] != files[0], "each click has a folder of its own"


def test_errors_of_kgen_are_messages(studio: Studio, run: Path) -> None:
    request = kgen.ImageRequest(run=run, prompts=("red heart",), settings=("stepz=2",))
    outcome = studio.generate(["tiny"], request)
    (message,) = outcome.messages
    assert message.startswith("error: ") and "did you mean 'steps'?" in message and not outcome.commands
    assert not any(studio.output.iterdir()), "an empty folder does not stay"
    assert "there is no PROMPT" in studio.generate(["tiny"], kgen.ImageRequest(run=run)).messages[0]


def test_fields_are_the_options_of_the_run(studio: Studio) -> None:
    abilities = studio.abilities("tiny")
    fields = {field.key: field for field in abilities.fields}
    assert {"steps", "guidance", "sampler"} <= set(fields) and "strength" not in fields
    assert [field.key for field in abilities.fields if field.main] == ["steps", "guidance"]
    assert "int > 0" in fields["steps"].help and fields["sampler"].default == "heun"
    assert {"ddpm", "heun"} <= set(fields["sampler"].choices) and "diffusion/ddpm" not in fields["sampler"].choices
    assert abilities.strength == 0.6 and not abilities.inpaints and not abilities.blends


def test_only_changed_fields_become_settings() -> None:
    fields = [Field("steps", "20", ""), Field("sampler", "ddpm", "", ("ddpm", "ddim")), Field("eta", "0", "")]
    assert settings_of(fields, {"steps": "20", "sampler": "ddim", "eta": " "}) == ("sampler=ddim",)


def test_runs_are_those_that_are_given_or_those_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models: dict[str, InstalledModel] = {}
    monkeypatch.setattr("kgen_plugin_studio.runs.installed_models", lambda: models)
    with pytest.raises(kgen.RunError, match="there is no run in runs/"):
        find_runs([])
    for name in ("b", "a"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "manifest.json").write_text("{}")
    assert list(find_runs([])) == ["runs/a", "runs/b"] and list(find_runs([Path("runs/b")])) == ["runs/b"]
    with pytest.raises(kgen.RunError, match="there is no run directory runs/c"):
        find_runs([Path("runs/c")])
    models |= {"emoji": InstalledModel("emoji", "kgen-model-emoji", "1.0", tmp_path / "emoji")}
    models |= {"broken": InstalledModel("broken", "kgen-model-broken", "1.0", tmp_path / "broken", "it is damaged")}
    assert find_runs([]) == {"runs/a": Path("runs/a"), "runs/b": Path("runs/b"), "emoji": tmp_path / "emoji"}


def test_the_list_says_how_far_a_run_is_and_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Config:
        class fit:  # noqa: N801
            steps = 1050

    monkeypatch.setattr("kgen_plugin_studio.runs.open_config", lambda run: Config)
    models = {"emoji": InstalledModel("emoji", "kgen-model-emoji", "1.0", tmp_path)}
    monkeypatch.setattr("kgen_plugin_studio.runs.installed_models", lambda: models)
    assert summarize("saved", tmp_path).steps == summarize("saved", tmp_path).state == ""
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "manifest.json").write_text('{"step": 500}')
    run, model = summarize("runs/a", tmp_path), summarize("emoji", tmp_path)
    assert run.steps == model.steps == "500 of 1,050" and run.state == "not finished"
    assert model.state == "installed model, kgen-model-emoji 1.0"
    (tmp_path / "manifest.json").write_text('{"step": 1050, "finished": "2026-11-01"}')
    run = summarize("runs/a", tmp_path)
    assert run.steps == "1,050" and run.state == "finished 2026-11-01"


def test_messages_name_the_run_and_leave_out_what_a_framework_prints(
    studio: Studio, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.runs["other"] = run
    request = kgen.ImageRequest(run=run, prompts=("red penguin",), settings=("steps=1",))
    found = studio.generate(["tiny", "other"], request).messages
    assert [text.partition("prompt")[0] for text in found] == ["warning: tiny: ", "warning: other: "]

    printed = "I0000 TensorFlow starts\nwarning: slow\nerror: it cannot\nbecause\n"
    failed = subprocess.CompletedProcess([], 2, "", printed)
    monkeypatch.setattr("subprocess.run", lambda *words, **options: failed)
    outcome = studio.process_images(COMMANDS[0], "tiny", [], {})
    assert outcome.messages == ["warning: slow", "error: it cannot\nbecause"] and not outcome.commands


def test_a_painted_image_becomes_an_image_and_a_mask(studio: Studio, run: Path, tmp_path: Path) -> None:
    image, layer = Image.new("RGB", (8, 8), "orange"), Image.new("RGBA", (8, 8))
    assert keep_mask(tmp_path, [layer]) is None and keep_mask(tmp_path, []) is None
    layer.paste((255, 255, 255, 255), (0, 0, 4, 8))
    source, mask = keep_image(tmp_path, image), keep_mask(tmp_path, [layer])
    painted = np.asarray(Image.open(mask))
    assert (painted[:, :4] == 255).all() and not painted[:, 4:].any()
    assert source == keep_image(tmp_path, image), "the same image is kept once"
    request = kgen.ImageRequest(run=run, prompts=("red heart",), images=(source,), settings=("steps=2",), strength=0.01)
    outcome = studio.generate(["tiny"], request)
    assert outcome.messages == []
    ((file, _),) = outcome.files
    assert np.abs(np.asarray(Image.open(file)).astype(int) - np.asarray(image)).mean() < 16
    refused = studio.generate(["tiny"], dataclasses.replace(request, mask=mask))
    assert "mask" in refused.messages[-1] and not refused.files


def test_progress_is_read_from_the_files_of_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Config:
        class fit:  # noqa: N801
            steps = 100

    monkeypatch.setattr("kgen_plugin_studio.training.open_config", lambda run: Config)
    assert read_progress(tmp_path).step == 0 and read_progress(tmp_path).seconds_left is None
    rows = "step,seconds,images_per_second,loss,val_loss\n10,1.0,80,0.5,\n20,3.0,40,0.25,\n20,3.0,,,0.3\n30,9"
    (tmp_path / "metrics.csv").write_text(rows)
    (tmp_path / "samples").mkdir()
    for name in ("step-00000010.png", "step-00000020.png", "step-00000020-raw.png"):
        (tmp_path / "samples" / name).write_bytes(b"")
    progress = read_progress(tmp_path)
    assert progress.losses == [(10, "loss", 0.5), (20, "loss", 0.25), (20, "val_loss", 0.3)]
    assert (progress.step, progress.steps, progress.images_per_second) == (20, 100, 60)
    assert progress.seconds_left == 80 * 2 / 10 and progress.sample.name == "step-00000020.png"
    with pytest.raises(kgen.RunError, match="no training of"):
        stop(tmp_path)
