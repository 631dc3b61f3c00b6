"""A run's directory: who may write to it, what is refused, how a run goes on, and what is made again."""

from __future__ import annotations

import fcntl
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import GOOD, TOY
from made_plugins import installed
from safetensors.numpy import load_file

from kgen.cli.progress import TrainingProgress, duration
from kgen.config import RunConfig
from kgen.errors import ConfigError, PluginError, RunError, RunInterruptedError
from kgen.evaluation.results import read_results, to_scores
from kgen.experiments.directory import RunDirectory
from kgen.runs.evaluation import evaluate
from kgen.runs.run import check, run

pytestmark = pytest.mark.portable


def configuration(**changes: Any) -> RunConfig:
    return RunConfig.from_dict(
        yaml.safe_load(GOOD), [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    )


def quiet(config: RunConfig, path: Path, **options: Any) -> Any:
    return run(config, path, **{"log": lambda text: None, **options})


@pytest.fixture(scope="module", autouse=True)
def toy() -> Iterator[None]:
    with installed(TOY):
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, not to be written to."""
    path = tmp_path_factory.mktemp("done") / "run"
    quiet(configuration(), path)
    return path


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))


def scores_of(folder: Path) -> dict[str, dict[str, float]]:
    return to_scores(read_results(folder / "evaluation.json"))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def weights(path: Path) -> dict[str, np.ndarray]:
    return load_file(path / "model" / "weights.safetensors")


# ---- what is no run stays as it is -------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_folders_that_are_not_runs_are_refused_and_unchanged(
    restart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, file, link, lost, own = (tmp_path / name for name in ("documents", "file", "link", "lost", "own"))
    documents.mkdir()
    (documents / "thesis.txt").write_text("precious")
    file.write_text("precious")
    link.symlink_to(documents)
    lost.symlink_to(tmp_path / "nowhere")
    own.mkdir()
    (own / "config.yaml").write_text(configuration().to_yaml())  # a run file of the user's, which nobody ran
    before = everything(tmp_path)
    monkeypatch.chdir(documents)
    for path, message in (
        (documents, "is not empty and holds no run"),
        (file, "is a file"),
        (link, "is not empty and holds no run"),
        (lost, "is a link to .*nowhere, which does not exist"),
        (own, "is not empty and holds no run"),
        (Path(), "is not empty and holds no run"),
        (Path("../documents"), "is not empty and holds no run"),
        (file / "run", "cannot be written to: Not a directory"),
        (Path("/proc/run"), "cannot be written to"),  # even root makes no folder there
    ):
        with pytest.raises(RunError, match=f"{message}.*--out"):
            quiet(configuration(), path, restart=restart)
    assert everything(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["documents", "file", "link", "lost", "own"]


def test_restart_is_refused_while_another_process_uses_the_run(copy: Path) -> None:
    before = everything(copy)
    with (copy / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for restart in (True, False):
            with pytest.raises(RunError, match="another process is working on"):
                quiet(configuration(seed=7), copy, restart=restart)
        with pytest.raises(RunError, match="another process is working on"):
            evaluate(copy)
    assert everything(copy) == before and [p.name for p in copy.parent.iterdir()] == ["run"]


def test_a_lock_on_a_folder_that_is_moved_aside_meanwhile_does_not_count(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the lock and taking it, another process restarts the run."""
    flock, moved = fcntl.flock, []

    def late(file: Any, operation: int) -> None:
        if not moved:
            moved.append(copy.rename(copy.with_name("aside")))
            copy.mkdir()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with RunDirectory(copy).locked():
        assert [p.name for p in copy.iterdir()] == [".lock"]
        with pytest.raises(RunError, match="another process"), RunDirectory(copy).locked():
            pass


def test_restart_moves_the_older_run_aside_and_prints_where(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, logged, before = tmp_path / "link", [], everything(copy)
    link.symlink_to(copy)
    monkeypatch.chdir(copy / "samples")
    with pytest.raises(RunError, match="holds the current folder"):
        quiet(configuration(seed=1), copy, restart=True)
    monkeypatch.chdir(tmp_path)
    quiet(configuration(seed=1), link, restart=True, log=logged.append)
    assert any(f"moved to {tmp_path}/run-1" in text for text in logged)
    assert link.is_symlink() and everything(tmp_path / "run-1") == before
    assert RunDirectory(copy).read_manifest()["seed"] == 1


@pytest.mark.usefixtures("windows")
def test_a_run_is_moved_aside_on_windows_too(copy: Path, tmp_path: Path) -> None:
    """On Windows, a folder cannot be moved while a file in it is open, such as the lock."""
    before, directory = everything(copy), RunDirectory(copy)
    with directory.locked(), directory.moved_aside() as older:
        assert everything(older) == before and everything(copy) == {".lock": b""}
        for path in (copy, older):
            with pytest.raises(RunError, match="another process is working on"), RunDirectory(path).locked():
                pass
    for path in (copy, tmp_path / "new"):
        with RunDirectory(path).locked():
            assert path.is_dir()
    directory, refused = RunDirectory(older), pytest.raises(RunError, match=r"cannot be renamed.*--out")
    with directory.locked(), directory.metrics.open(), refused, directory.moved_aside():
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-1"] and everything(older) == before


# ---- going on ----------------------------------------------------------------------------------------------------


def test_adding_steps_equals_one_longer_run_except_for_the_schedule(copy: Path, tmp_path: Path) -> None:
    logged: list[str] = []
    constant = {"fit__schedule": "constant", "sample__every": 0, "evaluate__metrics": "[]"}
    quiet(configuration(**constant), tmp_path / "grown")
    result = quiet(configuration(**constant, fit__steps=9), tmp_path / "grown", log=logged.append)
    quiet(configuration(**constant, fit__steps=9), tmp_path / "whole")
    assert result.step == 9
    for name, array in weights(tmp_path / "whole").items():
        np.testing.assert_array_equal(weights(tmp_path / "grown")[name], array, err_msg=name)
    assert not any("the learning rate follows" in text for text in logged), logged  # it stays the same
    (change,) = RunDirectory(tmp_path / "grown").read_manifest()["changes"]
    assert change["step"] == 6 and change["changed"] == ["fit.steps: 6 there, 9 now"]
    with pytest.raises(RunError, match=r"fit\.steps: 9 there, 8 now\nfit\.steps can only increase\nstart again"):
        quiet(configuration(**constant, fit__steps=8), tmp_path / "grown")


def test_adding_steps_to_a_cosine_schedule(copy: Path) -> None:
    logged: list[str] = []
    quiet(configuration(fit__steps=12), copy, log=logged.append)  # half of a cosine is left
    assert any(
        "schedule of 12 steps: it is 0.025 there; in the schedule of 6 steps it would be 0" in text for text in logged
    ), logged
    rows = (copy / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]].count("12") >= 1


def test_a_run_that_continues_on_another_backend_says_so_and_its_report_names_both(copy: Path) -> None:
    directory, logged = RunDirectory(copy), []
    software = directory.read_manifest()["software"]
    now = software["backend"]
    directory.update_manifest(software={**software, "backend": "other", "other": "7.5"})
    quiet(configuration(fit__steps=8), copy, log=logged.append)
    note = f"the backend was other before, and is {now} now"
    assert [text for text in logged if "backend" in text] == [
        f"{note}: the results differ slightly from those of a single backend. KERAS_BACKEND=other continues as before"
    ]
    assert directory.read_manifest()["changes"][-1]["changed"] == [note]
    report = " ".join((copy / "report.html").read_text().split())
    assert f"on {now} {software[now]}, until step 6 on other 7.5" in report
    logged.clear()
    quiet(configuration(fit__steps=9), copy, log=logged.append)
    assert not any("backend" in text for text in logged), logged


def test_settings_that_do_not_affect_the_training_may_change(copy: Path) -> None:
    before, trained = scores_of(copy), weights(copy)
    other = {"sample__options": "{strength: 3.0}", "evaluate__copies": 2, "fit__log_every": 7, "name": "renamed"}
    quiet(configuration(**other), copy)
    after, manifest = scores_of(copy), RunDirectory(copy).read_manifest()
    assert before["train"]["brightness mean"] != after["train"]["brightness mean"]
    assert manifest["finished"] and manifest["name"] == "renamed"
    assert "strength: 3.0" in (copy / "report.html").read_text()
    assert all(np.array_equal(trained[name], array) for name, array in weights(copy).items())
    for key, value in {"seed": 3, "fit__batch_size": 2, "data__size": 16}.items():
        with pytest.raises(RunError, match=f"{key.replace('__', '.')}: .* there, {value} now"):
            quiet(configuration(**other, **{key: value}), copy)


def test_a_missing_metric_can_be_removed(copy: Path) -> None:
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("toy/brightness", "gone/brightness"))
    before = scores_of(copy)
    quiet(configuration(evaluate__metrics="[]"), copy)
    assert RunConfig.load(copy / "config.yaml").evaluate.metrics == () and scores_of(copy) == before


@pytest.mark.parametrize("missing", ["report.html", "evaluation.json", "samples/final.png"])
def test_files_that_a_killed_process_did_not_write_are_written_later(missing: str, copy: Path) -> None:
    (copy / missing).unlink()
    result = quiet(configuration(), copy)
    assert result.report.is_file() and result.grid.is_file() and result.scores["train"]


def test_the_mark_comes_after_the_report(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kgen.runs.evaluation.write_report", killed)
        with pytest.raises(RunInterruptedError):
            quiet(configuration(evaluate__copies=2), copy)
    assert "finished" not in RunDirectory(copy).read_manifest()
    assert quiet(configuration(evaluate__copies=2), copy).report.is_file()


# ---- evaluating --------------------------------------------------------------------------------------------------


def test_evaluate_takes_options_and_keeps_them(copy: Path) -> None:
    scores = to_scores(evaluate(copy, ["sample.options={strength: 3.0}", "evaluate.samples_per_prompt=3"]))
    assert scores_of(copy) == scores
    config = RunConfig.load(copy / "config.yaml")
    assert config.evaluate.samples_per_prompt == 3 and "strength: 3.0" in (copy / "report.html").read_text()
    assert quiet(config, copy).scores == scores  # nothing is left to do
    with pytest.raises(ConfigError, match=r"fit\.steps: 9 asks for more training"):
        evaluate(copy, ["fit.steps=9"])
    with pytest.raises(ConfigError, match=r"affect the training: seed: 0 there, 4 now: train another run"):
        evaluate(copy, ["seed=4"])
    shutil.rmtree(copy / "model")
    with pytest.raises(RunError, match="finish its training first"):
        evaluate(copy)


def test_scores_on_changed_data_are_refused_or_marked(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen_toy.parts import Squares

    before = everything(copy)
    monkeypatch.setattr(Squares, "fingerprint", lambda self: "other")
    monkeypatch.setattr(
        Squares,
        "captions",
        lambda self, split: {"train": ["red", "green", "blue"], "holdout": ["white"]}.get(split, []),
    )
    with pytest.raises(RunError, match=r"1 image was added \(train 2\).*--changed-data"):
        evaluate(copy)
    with pytest.raises(RunError, match=r"1 image was added \(train 2\).*--changed-data"):
        quiet(configuration(fit__steps=9), copy)
    assert everything(copy) == before
    scores = to_scores(evaluate(copy, allow_changed_data=True))
    assert set(scores) == {"train, changed data", "holdout, changed data"}
    assert (
        "scores on other images or captions than those of the training: 1 image was added"
        in (copy / "report.html").read_text()
    )
    logged: list[str] = []
    result = quiet(configuration(fit__steps=9), copy, allow_changed_data=True, log=logged.append)
    assert set(result.scores) == {"train", "holdout"} and any("changed images or captions" in text for text in logged)
    assert "scores on other images" not in (copy / "report.html").read_text()
    assert any("data: 1 image was added (train 2)" in str(c) for c in RunDirectory(copy).read_manifest()["changes"])
    evaluate(copy)  # these are the run's own data now


def test_scores_that_are_not_finite_leave_valid_json(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen_toy.parts import Brightness

    monkeypatch.setattr(Brightness, "compute", lambda *arguments: {"mean": math.nan, "most": math.inf})
    logged: list[str] = []
    evaluate(copy, log=logged.append)
    assert "note: brightness mean (holdout) is not a finite number" in logged

    def refuse(word: str) -> None:
        raise AssertionError(word)

    found = json.loads((copy / "evaluation.json").read_text(), parse_constant=refuse)
    assert [(each["split"], each["values"]) for each in found["results"]][:2] == [("train", {"0": None})] * 2
    assert math.isnan(scores_of(copy)["train"]["brightness mean"])
    assert "<td>nan</td>" in (copy / "report.html").read_text()


def test_the_report_names_skipped_images(copy: Path) -> None:
    from kgen.runs.report import write_report

    directory = RunDirectory(copy)
    manifest = directory.read_manifest()
    directory.update_manifest(data={**manifest["data"], "skipped": [f"<{i}>.png: is damaged" for i in range(160)]})
    write_report(directory, "")
    page = directory.report.read_text()
    assert "not used: 160." in page and "&lt;9&gt;.png: is damaged" in page and "and 150 more" in page
    assert "&lt;10&gt;.png" not in page


# ---- starting from another run -----------------------------------------------------------------------------------


def test_starting_from_another_run(done: Path, tmp_path: Path) -> None:
    still = {"fit__learning_rate": 1e-12, "fit__optimizer__weight_decay": 0, "fit__steps": 1, "init": done}
    config = configuration(**still, seed=5, data__colors="[blue, green]")
    quiet(config, tmp_path / "tuned")
    before, after = weights(done), weights(tmp_path / "tuned")
    assert before.keys() == after.keys() and len(before) >= 2
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, atol=1e-6, err_msg=name)
    noted = RunDirectory(tmp_path / "tuned").read_manifest()["init"]
    [source] = noted["sources"]
    assert source["from"] == str(done) and source["step"] == 6 and len(source["weights"]) == 64
    assert source["taken"] == len(before) and noted["fresh"] == noted["unused"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"generator__network": "{kind: deep}"},
            r"init: the weights of .* do not fit:\n  generator/.*: missing in the source, .* in the model",
        ),
        (
            {"data__size": 16},
            r"do not fit:\n  .*\n  generator/out/kernel: \(26, 192\) in the source, \(26, 768\) in the model\n",
        ),
        ({"encoder": "text/bag"}, "init: the encoder of .* is 'toy/letters', not 'text/bag'"),
    ],
)
def test_weights_that_do_not_fit_are_named_by_check_and_before_training(
    changes: dict[str, str], message: str, done: Path, tmp_path: Path
) -> None:
    config = configuration(init=done, **changes)
    with pytest.raises(RunError, match=message):
        check(config)
    with pytest.raises(RunError, match=message):
        quiet(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_sources_of_weights_are_refused(done: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"init: .* contains no trained weights; give a finished run"):
        check(configuration(init=tmp_path))
    with pytest.raises(RunError, match=r"init: .*nowhere: there is no such file or folder"):
        check(configuration(init=tmp_path / "nowhere"))
    half = Path(shutil.copytree(done, tmp_path / "half"))
    shutil.rmtree(half / "model")
    with pytest.raises(RunError, match="contains no trained weights"):
        check(configuration(init=half))


def test_newly_initialized_weights_are_printed_and_recorded(done: Path, tmp_path: Path) -> None:
    logged: list[str] = []
    init = {"from": str(done), "exclude": ["generator/layers", "generator/out/kernel"]}
    config = RunConfig.from_dict(
        {**configuration(generator__network="{kind: deep}", fit__steps=1).dump(), "init": init}
    )
    run(config, tmp_path / "run", log=logged.append)
    assert f"1 weights come from {done}" in logged
    fresh = ["generator/layers/0/bias", "generator/layers/0/kernel", "generator/out/kernel"]
    assert f"3 weights are newly initialized: {', '.join(fresh)}" in logged
    assert "1 saved weights are not used: generator/out/kernel" in logged
    noted = RunDirectory(tmp_path / "run").read_manifest()["init"]
    assert noted["fresh"] == fresh and noted["unused"] == ["generator/out/kernel"]
    assert RunConfig.load(tmp_path / "run" / "config.yaml") == config
    init = {"from": str(done), "exclude": ["generator/*"]}
    with pytest.raises(RunError, match=f"init: no weights are taken from {done}"):
        check(RunConfig.from_dict({**config.dump(), "init": init}))
    twice = [{"from": str(done), "include": ["generator/out/bias"]}] * 2
    with pytest.raises(ConfigError, match=f"init: both {done} and {done} give generator/out/bias"):
        check(RunConfig.from_dict({**config.dump(), "init": twice}))


def test_a_checkpoint_lists_the_weights_of_its_model(done: Path, kgen: Any) -> None:
    listed = kgen("weights", done)
    assert listed.status == 0 and "generator/out/kernel" in listed.out
    assert kgen("weights", max((done / "checkpoints").glob("step-*"))).out == listed.out


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("{form: RUN}", "init.form: unknown key; did you mean 'from'?"),
        ("[RUN, {include: [x]}]", "init[1].from: is required"),
        ("{from: RUN, include: x}", "init.include: must be a list, got 'x'"),
        ("3", "init: must be a mapping, got 3"),
    ],
)
def test_init_is_checked(init: str, message: str, good: Path, kgen: Any) -> None:
    kgen("check", good, "--set", f"init={init}").refuses(message)


# ---- the command line --------------------------------------------------------------------------------------------


def test_run_continues_a_directory_and_check_takes_overrides(copy: Path, good: Path, kgen: Any) -> None:
    outcome = kgen("run", copy, "--set", "evaluate.samples_per_prompt=2", "--set", "fit.steps=7")
    assert outcome.status == 0 and "fit.steps: 6 there, 7 now" in outcome.out, outcome
    assert "2 images of 8x8x3 continuous to train on, 0 in the validation split, 1 held out" in outcome.out
    assert RunDirectory(copy).read_manifest()["step"] == 7
    outcome = kgen("evaluate", copy, "--set", "evaluate.samples_per_prompt=1")
    assert outcome.status == 0 and "brightness mean" in outcome.out, outcome
    kgen("run", copy.parent).refuses(f"{copy.parent} is a folder, but no run")
    kgen("check", good, "--set", "evaluate.metrics=[{name: retrieval, k: [0]}]").refuses("k must be positive numbers")
    kgen("check", good, "--set", "fit.steps=none").refuses("--set fit.steps=none")


def test_check_continues_after_an_error(good: Path, kgen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen_toy.parts import Squares

    def captions(self: Any, split: str) -> Any:
        if self.size == 4:
            raise ZeroDivisionError("boom")
        return ["red"] if split == "train" else []

    monkeypatch.setattr(Squares, "captions", captions)
    bad = good.with_name("bad.yaml")
    bad.write_text(good.read_text().replace("{name: squares,", "{name: squares, size: 4,"))
    outcome = kgen("check", good, bad, good)
    assert outcome.status == 1 and outcome.out.count(f"{good}: ok") == 2, outcome
    assert f"error: {bad}: " in outcome.err and "ZeroDivisionError: boom" in outcome.err


def test_a_missing_plugin_is_named_with_its_version(copy: Path, kgen: Any) -> None:
    directory = RunDirectory(copy)
    components = directory.read_manifest()["components"]
    gone = {"id": "gone/gan", "distribution": "kgen-plugin-gone", "version": "1.5"}
    directory.update_manifest(components={**components, "generator": gone})
    message = f"{copy} needs the generator 'gone/gan' of kgen-plugin-gone 1.5, which is not installed: pip install "
    for command in (["run"], ["evaluate"], ["compare"], ["generate", "red"]):
        kgen(command[0], copy, *command[1:]).refuses(f"{message}kgen-plugin-gone==1.5")
    with pytest.raises(PluginError, match="gone/gan"):
        evaluate(copy)


def test_plain_logs_show_the_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logged, clock = [], iter([100.0, 110.0, 130.0])
    display = SimpleNamespace(
        progress=SimpleNamespace(add_task=lambda *a, **k: 0, update=lambda *a, **k: None),
        console=SimpleNamespace(is_terminal=False),
        log=logged.append,
    )
    monkeypatch.setattr("kgen.cli.progress.time.monotonic", lambda: next(clock))
    training = TrainingProgress(display, "training", 400)  # type: ignore[arg-type]
    for step in (100, 200, 400):
        training(step, {"loss": 1.0, "images_per_second": 5.0})
    assert [line.partition("/s")[2] for line in logged] == ["", ", 20 s left", ""]
    assert [duration(seconds) for seconds in (99, 600, 9000)] == ["99 s", "10 min", "2.5 h"]
