from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from command_line import EXECUTABLE, Trained, environment, quickest_backend
from PIL import Image

from kgen.backend.selection import select_backend
from kgen.errors import ConfigError, PluginError
from kgen.generation.output import slug

COMMANDS = [
    *("run", "generate", "caption", "evaluate", "compare", "weights", "check", "schema", "export", "import"),
    *("init", "doctor", "data check", "plugins list", "plugins show", "plugins new", "models list", "models pack"),
]


# ---- what needs no framework ---------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", "data", "plugins", "models", *COMMANDS])
def test_every_command_has_help(kgen, command: str) -> None:
    outcome = kgen(*command.split(), "--help", COLUMNS="200")
    assert outcome.status == 0 and "Usage: kgen" in outcome.out and not outcome.err
    if command not in ("data", "plugins", "models"):
        assert f"Example: kgen {command}".strip() in outcome.out


def test_the_version(kgen_process) -> None:
    from importlib.metadata import version

    assert kgen_process("--version").out == f"kgen {version('kgen-core')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "list"]])
def test_quick_commands_import_no_framework_and_no_unused_module(arguments: list[str]) -> None:
    script = (
        "import sys, kgen.cli\n"
        f"sys.argv = ['kgen', *{arguments}]\n"
        "frameworks = {'keras', 'tensorflow', 'jax', 'torch'}\n"
        "others = {'filelock', 'jinja2', 'matplotlib', 'psutil'}\n"
        "try: kgen.cli.main()\n"
        "finally: print('LOADED', sorted((frameworks | others) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_help_does_little_more_than_typer_itself() -> None:
    """Counts calls of functions, because the times of such short commands differ by a factor of two between two runs.

    With all plugins, `kgen --help` calls 2.5 times as many functions as a command that does nothing, and takes 1.6
    times as long.
    """
    count = (
        "import sys; calls = 0\n"
        "def profile(frame, event, argument):\n"
        "    global calls\n"
        "    calls += event in ('call', 'c_call')\n"
        "sys.setprofile(profile)\n"
        "try: {body}\n"
        "finally: sys.setprofile(None); print(calls)"
    )

    def calls(body: str) -> int:
        command = [sys.executable, "-c", count.format(body=body)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
        return int(done.stdout.splitlines()[-1])

    kgen = calls("import kgen.cli; sys.argv = ['kgen', '--help']; kgen.cli.main()")
    typer = calls("import typer; sys.argv = ['nothing', '--help']; typer.run(lambda: None)")
    assert kgen < 2.6 * typer


def test_plugins_list_shows_every_component_and_the_broken_plugins(kgen, site) -> None:
    site.install("sour", "import a_module_that_is_not_there")
    outcome = kgen("plugins", "list", PYTHONPATH=f"{environment()['PYTHONPATH']}{os.pathsep}{site.path}")
    assert outcome.status == 0
    assert "\ndecoder kgen/identity: " in outcome.out
    assert "\nencoder toy/letters: Counts letters (kgen-plugin-toy 1.2)\n" in outcome.out
    reason = "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    assert f"broken: plugin 'sour' of kgen-plugin-sour 0.5: {reason}" in outcome.out
    disabled = kgen("plugins", "list", PYTHONPATH=str(site.path), KGEN_DISABLE_PLUGINS="sour").out
    assert "broken: plugin 'sour' of kgen-plugin-sour 0.5: disabled by KGEN_DISABLE_PLUGINS" in disabled


def test_wrong_usage_has_status_2_and_no_traceback(kgen) -> None:
    for arguments in (
        ["rnu"],
        ["run"],
        ["run", "a", "b"],
        ["--frobnicate"],
        ["generate", "x"],
        ["generate", "x", "y", "-n", "0"],
        ["generate", "x", "y", "-n", "99999999999999999999"],
        ["generate", "x", "y", "--scale", "0"],
    ):
        outcome = kgen(*arguments)
        assert outcome.status == 2 and "Usage: kgen" in outcome.err and "Traceback" not in outcome.err, arguments


def test_a_closed_pipe_is_ignored_and_a_full_disk_is_named(kgen) -> None:
    piped = f"{EXECUTABLE} plugins list | true"
    done = subprocess.run(["bash", "-c", piped], env=environment(), capture_output=True, text=True)
    assert done.stderr == ""
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            done = subprocess.run([EXECUTABLE, "--version"], stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_a_fault_of_kgen_asks_for_a_report_and_shows_the_traceback_on_demand(kgen_process, site) -> None:
    (site.path / "sitecustomize.py").write_text(
        "import kgen.plugins.registry\n"
        "def explode(*_): raise RuntimeError('as a test')\n"
        "kgen.plugins.registry.Registry.of_kind = explode\n"
    )
    quiet = kgen_process("plugins", "list", PYTHONPATH=str(site.path))
    assert quiet.status == 1 and "Traceback" not in quiet.err
    assert "error: unexpected RuntimeError: as a test" in quiet.err and "KGEN_DEBUG=1" in quiet.err
    assert "Traceback" in kgen_process("plugins", "list", PYTHONPATH=str(site.path), KGEN_DEBUG="1").err


@pytest.mark.parametrize("prompt, name", [("A red/heart!", "a-red-heart"), ("NUL", "image-nul"), ("?", "image")])
def test_an_image_is_named_after_its_prompt_as_every_system_allows(prompt: str, name: str) -> None:
    """`nul.png` is no file on Windows, and holds nothing."""
    assert slug(prompt) == name


# ---- the backend ---------------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Lets a test say which backends are installed, in an environment that asks for none."""
    monkeypatch.setattr("kgen.backend.selection.os.environ", {"KERAS_HOME": str(tmp_path)})

    def only(*names: str) -> None:
        monkeypatch.setattr("kgen.backend.selection.installed", lambda name: name in names)

    return only


def test_the_first_installed_backend_is_used(installed) -> None:
    for names in (["tensorflow", "jax", "torch"], ["jax", "torch"], ["torch"]):
        os_environ().pop("KERAS_BACKEND", None)
        installed(*names)
        assert select_backend() == names[0] == os_environ()["KERAS_BACKEND"]


def os_environ() -> dict[str, str]:
    from kgen.backend import selection

    return selection.os.environ  # type: ignore[return-value]


def test_keras_json_chooses_the_backend_if_it_is_installed(installed, tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    installed("tensorflow", "torch")
    assert select_backend() == "torch"
    os_environ().pop("KERAS_BACKEND")
    installed("jax")
    assert select_backend() == "jax"


@pytest.mark.parametrize("damaged", ["{", "[]", '{"backend": 3}'])
def test_a_damaged_keras_json_is_passed_over(installed, tmp_path: Path, damaged: str) -> None:
    (tmp_path / "keras.json").write_text(damaged)
    installed("jax")
    assert select_backend() == "jax"


def test_a_requested_backend_must_be_installed(installed) -> None:
    installed("jax")
    os_environ()["KERAS_BACKEND"] = "torch"
    with pytest.raises(
        PluginError, match=r'KERAS_BACKEND=torch, but torch is not installed: pip install "kgen-core\[torch\]"'
    ):
        select_backend()
    os_environ()["KERAS_BACKEND"] = "numpy"
    with pytest.raises(ConfigError, match="KERAS_BACKEND=numpy: kgen runs on tensorflow, jax, torch"):
        select_backend()


def test_without_any_backend_the_message_says_what_to_install(installed) -> None:
    installed()
    with pytest.raises(PluginError, match=r'none is installed: pip install "kgen-core\[tensorflow\]"'):
        select_backend()


# ---- a whole run ---------------------------------------------------------------------------------


def test_run_trains_and_prints_where_its_results_are(trained: Trained) -> None:
    outcome, directory = trained.outcome, trained.directory
    assert outcome.status == 0, outcome
    assert outcome.out.splitlines()[-2:] == ["grid:   runs/good/samples/final.png", "report: runs/good/report.html"]
    for name in (
        "config.yaml",
        "manifest.json",
        "metrics.csv",
        "report.html",
        "model",
        "checkpoints",
        "samples/final.png",
    ):
        assert (directory / name).exists(), name
    with (directory / "metrics.csv").open() as file:
        assert list(csv.DictReader(file))
    assert "toy/means" in (directory / "config.yaml").read_text()
    report = (directory / "report.html").read_text()
    assert "Images over time" in report and "waiting for input (a part of training)" in report
    assert "the training" in report and "the loader alone" in report
    differing = report[report.index("differ from their default values") : report.index("<details>")]
    assert "generator: toy/means" in differing and "  steps: " in differing and "log_every: 50" not in differing


def test_a_run_first_prints_how_its_images_were_read(kgen, tmp_path: Path) -> None:
    for name in ("train/red/1", "train/green/1", "test/red/2"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), name.split("/")[1]).save(tmp_path / f"{name}.png")
    (tmp_path / "train" / "red" / "3.heic").write_text("no image")
    (tmp_path / "good.yaml").write_text(
        "data: {name: imagefolder, path: ., size: 8}\nencoder: letters\ngenerator: toy/means\n"
        "fit: {steps: 1, batch_size: 2, warmup_steps: 0}\nsample: {every: 1}\nevaluate: {metrics: []}\n"
    )
    outcome = kgen("run", "good.yaml", cwd=tmp_path)
    assert outcome.status == 0, outcome.err
    logged = " ".join(outcome.out.split()).split("imagefolder .: ")
    assert logged[1:3] == [
        "captions are from the folders' names ",
        "training uses 2 images in train/, and validation uses 1 image in test/ ",
    ]
    assert logged[3].startswith(
        "files that kgen does not read as images: 1 .yaml (good.yaml), 1 .heic (train/red/3.heic) "
    )
    assert "validation loss" in outcome.out


def test_run_again_is_quick_and_changes_nothing(kgen, trained: Trained) -> None:
    before = (trained.directory / "manifest.json").read_text()
    outcome = kgen("run", trained.config, cwd=trained.config.parent)
    assert outcome.status == 0 and "grid:   runs/good/samples/final.png" in outcome.out
    assert (trained.directory / "manifest.json").read_text() == before


def test_generate_writes_one_image_or_a_grid_or_a_folder(kgen, kgen_process, trained: Trained, tmp_path: Path) -> None:
    alone = kgen_process("generate", trained.directory, "red", "--seed", "7", "--set", "strength=0.5", cwd=tmp_path)
    assert alone.status == 0 and alone.out == "red.png\n", alone
    with Image.open(tmp_path / "red.png") as image:
        single = np.asarray(image)
        assert single.shape == (8, 8, 3)
        assert image.text["prompt"] == "red" and image.text["seed"] == "7" and image.text["model"] == "good"
        assert json.loads(image.text["options"]) == {"strength": 0.5}
    options = ["-n", "2", "--seed", "7", "--set", "strength=0.5"]
    folder = kgen("generate", trained.directory, "Red, red!", "red", *options, "-o", "many/", cwd=tmp_path)
    names = ["0000-red-red.png", "0001-red-red.png", "0002-red.png", "0003-red.png"]
    assert folder.out.split() == [f"many/{name}" for name in names]
    images = [np.asarray(Image.open(tmp_path / "many" / name)) for name in names]
    assert np.abs(images[2].astype(int) - single).max() <= 1, "the same prompt and seed, in another process and batch"
    assert np.abs(images[3].astype(int) - single).max() > 8, "another copy"
    grid = kgen("generate", trained.directory, "red", "green", "-n", "3", "-o", "sub/grid.png", cwd=tmp_path)
    assert grid.out == "sub/grid.png\n"
    with Image.open(tmp_path / "sub" / "grid.png") as image:
        assert image.width > image.height and image.text["prompt"] == "red; green"


def test_generate_distinguishes_prompts_from_words_and_enlarges(kgen, trained: Trained, tmp_path: Path) -> None:
    words = kgen("generate", trained.directory, "purple", "square", "--scale", "3", "-o", "many/", cwd=tmp_path)
    assert words.status == 0 and "note: these are 2 prompts: 'purple', 'square'; quote a prompt" in words.err
    quoted = kgen("generate", trained.directory, "purple square", "red", "-o", "grid.png", cwd=tmp_path)
    assert quoted.status == 0 and not quoted.err
    with Image.open(tmp_path / "many" / "0000-purple.png") as image:
        assert image.size == (24, 24) and image.text["scale"] == "3"
        assert len(np.unique(np.asarray(image)[:3, :3].reshape(-1, 3), axis=0)) == 1
    twice = kgen("generate", trained.directory, "red", "red", "-o", "many/", cwd=tmp_path)
    copies = [Image.open(tmp_path / name).text["copy"] for name in twice.out.split()]
    assert copies == ["0", "1"]


def test_generate_says_which_options_of_the_run_it_does_not_use(kgen, trained: Trained, tmp_path: Path) -> None:
    directory = shutil.copytree(trained.directory, tmp_path / "own")
    config = yaml.safe_load((directory / "config.yaml").read_text())
    config["sample"]["options"] = {"strength": 0.5, "decoder": {"tile": 64}}
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    said = "note: the samples and scores of this run were generated with "
    done = kgen("generate", directory, "red", cwd=tmp_path)
    assert f"{said}--set strength=0.5 --set decoder.tile=64" in done.err and done.status == 0, done
    done = kgen("generate", directory, "red", "--set", "strength=0.1", cwd=tmp_path)
    assert f"{said}--set decoder.tile=64" in done.err and done.status == 0, done
    assert said not in kgen("generate", trained.directory, "red", cwd=tmp_path).err
    config["sample"]["options"] = {"strength": 0.0}  # the default
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert said not in kgen("generate", directory, "red", cwd=tmp_path).err


def test_a_grid_is_not_an_image_to_start_from(kgen, trained: Trained, tmp_path: Path) -> None:
    kgen("generate", trained.directory, "red", "-n", "4", "-o", "grid.png", cwd=tmp_path)
    for sheet, count in ((tmp_path / "grid.png", 4), (trained.directory / "samples" / "final.png", 3)):
        for arguments in (
            ["generate", trained.directory, "red", "--image", sheet],
            ["reconstruct", trained.directory, sheet],
            ["upscale", trained.directory, sheet],
        ):
            kgen(*arguments, cwd=tmp_path).refuses(f"{sheet}: is a grid of {count} images")


@pytest.mark.parametrize("command", ["generate", "compare", "upscale"])
def test_a_prompt_that_is_not_utf8_is_refused(kgen, trained: Trained, command: str) -> None:
    half = "half \udcff"
    given = {"generate": [half], "compare": ["--prompt", half], "upscale": ["x.png", "--prompt", half]}[command]
    kgen(command, trained.directory, *given).refuses("is not UTF-8 text")


def test_evaluate_prints_the_scores(kgen, trained: Trained) -> None:
    outcome = kgen("evaluate", trained.directory)
    assert outcome.status == 0 and "brightness mean" in outcome.out
    assert "train" in outcome.out and "holdout" in outcome.out


@pytest.mark.usefixtures("toy")
def test_schema_describes_what_is_installed(kgen, tmp_path: Path) -> None:
    from kgen.config.schema import run_file_schema

    assert kgen("schema", "-o", tmp_path / "sub" / "s.json").status == 0
    written = json.loads((tmp_path / "sub" / "s.json").read_text())
    jsonschema.Draft202012Validator.check_schema(written)
    assert written == run_file_schema()
    source = {"from": "RUN", "include": ["encoder/*"]}
    validator = jsonschema.Draft202012Validator({**written["properties"]["init"], "$defs": written["$defs"]})
    assert all(validator.is_valid(init) for init in (None, "RUN", source, ["RUN", source], []))
    assert not any(validator.is_valid(init) for init in (3, {"include": ["*"]}, {**source, "only": 1}, [None]))


def test_plugins_show_prints_documentation_and_options_and_no_chatter_of_tensorflow(kgen, kgen_process) -> None:
    backend = "tensorflow" if importlib.util.find_spec("tensorflow") else quickest_backend()
    outcome = kgen_process("plugins", "show", "means", KERAS_BACKEND=backend)
    assert outcome.status == 0 and not outcome.err and "kgen-plugin-toy 1.2, kgen_toy.parts:Means" in outcome.out
    rows = [line.split() for line in outcome.out.splitlines()]
    for row in (
        "network linear | deep linear",
        'network.kind linear "linear"',
        "network.width int >= 4 (kind: deep) 8",
        "network.rates list of float (kind: deep) [0.5, 1.0]",
        "limit float | null null",
        'size int > 0 | auto "auto"',
        "strength float >= 0 0.0",
    ):
        assert (row.split() in rows) == ("network.kind" not in row), row
    assert "options of generate (in a run file: sample.options):" in outcome.out
    assert kgen("plugins", "show", "toy").out.startswith("plugin 'toy' of kgen-plugin-toy 1.2\n  dataset toy/squares")
    joint = [" ".join(line.split()) for line in kgen("plugins", "show", "joint").out.splitlines()]
    assert "encoders list of text | mapping required" in joint
    prior = [line.split() for line in kgen("plugins", "show", "unclip/prior").out.splitlines()]
    assert next(row for row in prior if row[:1] == ["network"])[-1] == "causal"  # a kind of another plugin, in short
    decoder = kgen("plugins", "show", "identity").out
    assert "options of decode (in a run file: sample.options.decoder): none" in decoder
    kgen("plugins", "show", "meens").refuses("there is no component, no kind and no plugin 'meens': did you mean")


def test_ctrl_c_ends_with_a_checkpoint_and_says_how_to_go_on(good: Path, tmp_path: Path, kgen) -> None:
    command = [EXECUTABLE, "run", good, "--set", "fit.steps=1000000", "--set", "fit.checkpoint_every=1000000"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "runs" / "good" / "metrics.csv"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.is_file() and len(metrics.read_text().splitlines()) > 1:
            break  # training has begun
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "a checkpoint is saved" in err and "to continue" in err and "Traceback" not in err
    assert any((tmp_path / "runs" / "good" / "checkpoints").iterdir())
