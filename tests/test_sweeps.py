"""kgen sweep: what it runs and what it does not run again, failures, interruptions, and the files that it leaves."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import GOOD, TOY, Trained, environment, quickest_backend
from crashes import crash
from engines import Here
from made_plugins import Site, installed

from kgen.errors import ConfigError, RunError, RunInterruptedError
from kgen.evaluation.results import read_results
from kgen.runs.evaluation import evaluate
from kgen.storage.locks import take_lock
from kgen.studies.plot_names import require_numbers
from kgen.studies.study import Study
from kgen.studies.trials import make_plan
from kgen.sweeps.checks import Check, make_check, try_all
from kgen.sweeps.directory import MARK, SweepDirectory
from kgen.sweeps.engines import Ended, Engine, OneByOne, Say
from kgen.sweeps.jobs import Job
from kgen.sweeps.sweep import Swept, sweep

STUDY = """\
run: good.yaml
over:
  seed: [0, 1]
  strength: [0, 0.5, 3.0e38]
"""
"""Two trainings. Noise of the last strength overflows, so that two evaluations fail."""


class Nowhere(Engine):
    """Runs nothing, because nothing is to be done."""

    def run(self, jobs: Sequence[Job], log: Say) -> Generator[tuple[Job, Ended], None, None]:
        assert not jobs, jobs
        yield from ()

    def try_metrics(self, check: Check, log: Say) -> Ended:
        raise AssertionError("nothing is to be tried")


class Stopped(Here):
    """Stops before the first job."""

    def run(self, jobs: Sequence[Job], log: Say) -> Generator[tuple[Job, Ended], None, None]:
        raise InterruptedError
        yield


class OnlyChecks(Here):
    """Runs no jobs, because the metrics are refused."""

    def run(self, jobs: Sequence[Job], log: Say) -> Generator[tuple[Job, Ended], None, None]:
        assert not jobs, jobs
        yield from ()


def write_study(folder: Path, text: str = STUDY) -> Path:
    (folder / "good.yaml").write_text(GOOD, encoding="utf-8")
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The time and the content of each file, without the locks."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Swept, list[str]]:
    """The folder of the study, the outcome and the log of `STUDY`. Tests must leave it as it is."""
    folder, logged = tmp_path_factory.mktemp("swept"), list[str]()
    with installed(TOY):
        study = Study.load(write_study(folder))
        return folder, sweep(study, folder / "out", engine=Here(), log=logged.append), logged


@pytest.fixture
def copied(swept: tuple[Path, Swept, list[str]], tmp_path: Path, toy: None) -> Path:
    """A copy of the sweep, for tests that change it."""
    shutil.copytree(swept[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_each_training_runs_once_and_each_trial_is_evaluated(
    swept: tuple[Path, Swept, list[str]], tmp_path: Path, toy: None
) -> None:
    folder, made, logged = swept
    assert [line for line in logged if line.startswith("job ")] == ["job seed-0", "job seed-1"]
    assert sum("weights to train" in line for line in logged) == 2
    values = {}
    for seed in (0, 1):
        run = folder / "out" / "runs" / f"seed-{seed}"
        assert (run / "report.html").is_file() and f"seed: {seed}\n" in (run / "config.yaml").read_text()
        for strength in (0, 0.5):
            changes = [f"sample.options.strength={strength}", "evaluate.metrics=[brightness]"]
            expected = evaluate(run, changes, out=tmp_path / "expected.json")
            found = read_results(folder / "out" / "trials" / f"seed-{seed}_strength-{strength}.json")
            assert [(r.label, r.values) for r in found] == [(r.label, r.values) for r in expected]
            assert found[0].fingerprint == expected[0].fingerprint
            values[seed, strength] = found[0].mean
    for row, strength in zip(made.table.rows, (0, 0.5), strict=False):
        cell = row.cells["brightness mean"]
        assert cell.mean == pytest.approx(statistics.fmean([values[0, strength], values[1, strength]]))
        assert cell.error == pytest.approx(abs(values[0, strength] - values[1, strength]) / 2)
    assert values[0, 0] != values[1, 0] != values[1, 0.5]
    with made.directory.csv.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    assert {(int(row["seed"]), float(row["sample.options.strength"])): float(row["value"]) for row in rows} == values


def test_a_note_on_the_scores_is_logged_once(tmp_path: Path, toy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen_toy.parts import Brightness

    monkeypatch.setattr(Brightness, "caveats", lambda *arguments: ("the images are few",))
    logged = list[str]()
    study = Study.load(write_study(tmp_path, "run: good.yaml\nover: {seed: [0, 1]}\n"))
    made = sweep(study, tmp_path / "out", engine=Here(), log=logged.append)
    assert [line for line in logged if "few" in line] == ["note: the images are few"]
    assert sum("weights to train" in line for line in logged) == 2 and not made.failures
    reports = [(tmp_path / "out" / "runs" / f"seed-{seed}" / "report.html").read_text("utf-8") for seed in (0, 1)]
    assert all("Note: the images are few." in report for report in reports)
    assert "<dt>brightness</dt><dd>The mean of all pixels, from 0 to 1.</dd>" in made.directory.page.read_text("utf-8")


def test_a_failure_ends_nothing_else_and_is_named(swept: tuple[Path, Swept, list[str]]) -> None:
    folder, made, _ = swept
    assert list(made.failures) == ["seed-0_strength-3e+38", "seed-1_strength-3e+38"]
    assert all("not finite" in text for text in made.failures.values())
    assert made.table.rows[2].finished == 0 and not made.table.rows[2].cells
    page, markdown = made.directory.page.read_text(), made.directory.markdown.read_text()
    for text in (page, markdown):
        assert "seed-1_strength-3e+38" in text and "2 of 6 trials are not finished" in text and "± " in text
        assert "means over 2 trainings" in text
    assert (folder / "out" / "sweep-brightness-mean.svg").read_text().startswith("<?xml")
    assert "(sweep-brightness-mean-holdout.svg)" in markdown and page.count("data:image/svg+xml;base64,") == 2
    assert not re.search(r"(src|href)=\"(?!data:)", page), "the page refers to other files"


def test_a_second_call_repeats_only_what_failed(copied: Path) -> None:
    before = snapshot(copied / "out")
    logged: list[str] = []
    again = sweep(Study.load(copied / "study.yaml"), copied / "out", engine=Here(), log=logged.append)
    after = snapshot(copied / "out")
    changed = {name for name, (when, _) in after.items() if before.get(name, (0, b""))[0] != when}
    assert {name.split("/")[0] for name in changed} <= {
        "failures",
        *(path.name for path in (copied / "out").iterdir() if path.is_file()),
    }
    assert {name: content for name, (_, content) in after.items()} == {n: content for n, (_, content) in before.items()}
    assert "6 trials in" in logged[0] and "2 of them" in logged[0]
    assert not any("weights to train" in line for line in logged) and len(again.failures) == 2


def test_values_can_be_removed_and_come_back(copied: Path) -> None:
    """The table shows the trials of the study. The results of others stay, for a study that has them again."""
    out, files = copied / "out", snapshot(copied / "out" / "trials")
    for values, labels in (("[0.5]", ["0.5"]), ("[0.5, 0]", ["0.5", "0"])):
        study = Study.load(write_study(copied, STUDY.replace("[0, 0.5, 3.0e38]", values)))
        made = sweep(study, out, engine=Nowhere(), log=lambda line: None)
        assert [row.values["sample.options.strength"].label for row in made.table.rows] == labels
        assert [row.finished for row in made.table.rows] == [2] * len(labels)
        assert len(made.directory.csv.read_text().splitlines()) == 1 + 4 * len(labels)
        assert snapshot(out / "trials") == files


def test_a_removed_value_cannot_come_back_as_another_one(tmp_path: Path, toy: None) -> None:
    """Its old results would be shown as those of the new one."""

    def study(values: str) -> Study:
        return Study.load(write_study(tmp_path, f"run: good.yaml\nover: {{method: {values}}}\n"))

    directory = SweepDirectory(tmp_path / "out")
    for values in ("{a: {strength: 1}, b: {strength: 2}}", "{b: {strength: 2}}"):
        with directory.locked(study(values)):
            directory.write_study(study(values))
    with (
        pytest.raises(RunError, match=r"over\.method: a was .*strength': 1. there, and is .*: rename it"),
        directory.locked(study("{a: {strength: 3}, b: {strength: 2}}")),
    ):
        pass
    with directory.locked(study("{a: {strength: 1}}")):
        directory.write_study(study("{a: {strength: 1}}"))
    assert list(json.loads(directory.removed.read_text())["method"]) == ["b"]


def test_values_can_be_added_and_plots_changed(copied: Path) -> None:
    text = STUDY.replace("[0, 0.5", "[0.25, 0, 0.5") + "plot: {y: brightness mean}\n"
    logged: list[str] = []
    runs = snapshot(copied / "out" / "runs")
    made = sweep(Study.load(write_study(copied, text)), copied / "out", engine=Here(), log=logged.append)
    assert {"evaluating seed-0_strength-0.25", "evaluating seed-1_strength-0.25"} <= set(logged)
    assert snapshot(copied / "out" / "runs") == runs
    assert [row.finished for row in made.table.rows] == [2, 2, 2, 0]
    assert sorted(path.name for path in (copied / "out").glob("*.svg")) == ["sweep.svg"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("seed: [0, 1]", "fit.steps: [6, 12]", "over: seed, sample.options.strength there, fit.steps"),
        ("over:", "set: {fit.steps: 7}\nover:", "set: None there, {'fit.steps': 7} now"),
        ("good.yaml", "other.yaml", "run.fit.steps: 6 there, 9 now"),
    ],
)
def test_another_study_in_the_folder_is_refused(copied: Path, before: str, after: str, message: str) -> None:
    (copied / "other.yaml").write_text("name: good\n" + GOOD.replace("steps: 6", "steps: 9"), encoding="utf-8")
    files = snapshot(copied / "out")
    with pytest.raises(RunError, match="holds a sweep of a different study") as error:
        sweep(Study.load(write_study(copied, STUDY.replace(before, after))), copied / "out", engine=Nowhere())
    assert message in str(error.value) and snapshot(copied / "out") == files


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path, toy: None) -> None:
    study = Study.load(write_study(tmp_path))
    for name, content in (("notes.txt", "mine"), ("sweep.yaml", "run: mine\n")):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(RunError, match="is not empty and holds no sweep"):
            sweep(study, folder, engine=Nowhere())
        assert [path.name for path in folder.iterdir()] == [name] and (folder / name).read_text() == content
    with pytest.raises(RunError, match="is a file"):
        sweep(study, tmp_path / "good.yaml", engine=Nowhere())


def test_only_one_process_works_on_a_sweep(copied: Path) -> None:
    lock = take_lock(copied / "out" / ".lock")
    with pytest.raises(RunError, match="another process is working on"):
        sweep(Study.load(copied / "study.yaml"), copied / "out", engine=Nowhere())
    lock.release()


def test_results_that_are_damaged_are_named_with_a_cure_that_works(copied: Path) -> None:
    text = write_study(copied, STUDY.replace(", 3.0e38", ""))
    damaged = copied / "out" / "trials" / "seed-0_strength-0.json"
    damaged.write_text("{")
    with pytest.raises(RunError, match=r"seed-0_strength-0\.json is damaged.*Move the file away, and run the same"):
        sweep(Study.load(text), copied / "out", engine=Nowhere())
    damaged.rename(copied / "moved.json")
    logged: list[str] = []
    made = sweep(Study.load(text), copied / "out", engine=Here(), log=logged.append)
    assert [line for line in logged if "evaluating" in line] == ["evaluating seed-0_strength-0"] and not made.failures


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics: [brightness, brightness]", "evaluate.metrics: 'toy/brightness' is given twice"),
        (
            "metrics: [{name: metrics/frechet, reference: gone.npz, features: {kind: pixels}}]",
            "reference: there is no file gone.npz",
        ),
        ("metrics: [{name: metrics/precision-recall, features: {kind: pixels}}]", "needs at least 4 images per split"),
        ("metrics: [psnr]", "'psnr' compares pairs of images"),
        (
            "plot: {y: [brightness mean, brightness meen]}",
            "study.yaml:5: plot.y: there is no number 'brightness meen'; did you mean 'brightness mean'? (the numbers "
            "are: brightness mean, brightness mean (holdout))",
        ),
        ("plot: {x: brightness (holdout)}", "plot.x: there is no number 'brightness (holdout)'; did you mean"),
    ],
)
def test_metrics_and_numbers_are_tried_before_anything_is_trained(
    tmp_path: Path, toy: None, text: str, message: str
) -> None:
    study = write_study(tmp_path, f"run: good.yaml\nover:\n  seed: [0, 1]\n  strength: [0, 0.5]\n{text}\n")
    with pytest.raises(ConfigError, match=re.escape(message)):
        sweep(Study.load(study), tmp_path / "out", engine=OnlyChecks(), log=lambda line: None)
    assert not (tmp_path / "out").exists(), "the next study would be another one"


def test_numbers_of_a_sweep_that_has_ended_are_checked_without_trying_the_metrics(copied: Path) -> None:
    text = STUDY.replace(", 3.0e38", "") + "plot: {y: brightness meen}\n"
    files = snapshot(copied / "out")
    with pytest.raises(ConfigError, match="did you mean 'brightness mean'"):
        sweep(Study.load(write_study(copied, text)), copied / "out", engine=Nowhere(), log=lambda line: None)
    assert snapshot(copied / "out") == files


def test_a_metric_that_uses_a_run_of_the_sweep_is_not_tried(tmp_path: Path, toy: None) -> None:
    """That run is not trained yet."""
    text = """\
run: good.yaml
runs: {small: {}}
over: {seed: [0]}
metrics: [brightness, {name: metrics/frechet, reference: "{runs}/small/x.npz"}]
plot: {y: frechet distance}
"""
    made = make_plan(study := Study.load(write_study(tmp_path, text)), tmp_path / "runs")
    check = make_check(made.trials, tmp_path / "runs", tmp_path / "outcome.json")
    assert check.untried == ["metrics/frechet", "frechet"]
    try_all(Check(**json.loads(check.to_json())["check"]))
    labels = check.labels(Ended(0))
    assert labels == ["brightness mean", "brightness mean (holdout)"]
    require_numbers(study.numbers, labels, check.untried)


def test_only_plots_of_the_sweep_itself_are_deleted(copied: Path) -> None:
    """`plots.json` may have been edited, or a plot replaced."""
    out = copied / "out"
    names = json.loads((out / "plots.json").read_text())
    own, other = sorted(names)
    (out / other).write_text("drawn by hand")
    (out / "sweep-mine.svg").write_text("mine")
    foreign = ("notes.txt", "sweep.yaml", "../study.yaml", "runs/seed-0/config.yaml")
    (out / "notes.txt").write_text("mine")
    hashes = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in foreign}
    (out / "plots.json").write_text(json.dumps({**names, **hashes, "sweep-mine.svg": names[own]}))
    text = STUDY.replace(", 3.0e38", "") + "plot: {x: brightness mean, y: brightness mean (holdout)}\n"
    made = sweep(Study.load(write_study(copied, text)), out, engine=Nowhere(), log=lambda line: None)
    assert all((out / name).is_file() for name in (*foreign, "sweep-mine.svg", other)) and not (out / own).exists()
    assert list(json.loads((out / "plots.json").read_text())) == ["sweep.svg"] and made.directory.page.is_file()
    (out / "plots.json").write_text('["notes.txt"]')
    sweep(Study.load(write_study(copied, STUDY.replace(", 3.0e38", ""))), out, engine=Nowhere(), log=lambda line: None)
    assert (out / "notes.txt").is_file()


def test_a_run_that_no_trial_refers_to_is_named(copied: Path) -> None:
    logged: list[str] = []
    text = "run: good.yaml\nruns: {small: {}}\nover: {strength: [0]}\n"
    with pytest.raises(InterruptedError):
        sweep(Study.load(write_study(copied, text)), copied / "new", engine=Stopped(), log=logged.append)
    assert "note: no trial refers to {runs}/small, so this run is not trained" in logged


@pytest.mark.slow
def test_a_run_that_a_trial_needs_is_trained_first_and_its_failure_fails_only_those_trials(
    tmp_path: Path, toy: None
) -> None:
    text = """\
run: good.yaml
runs: {small: {fit.steps: 3}, broken: {generator.stride: 3}, unused: {fit.steps: 3}}
over:
  init: [null, "{runs}/small", "{runs}/broken"]
set: {sample.every: 0, evaluate.metrics: [brightness]}
"""
    logged: list[str] = []
    made = sweep(Study.load(write_study(tmp_path, text)), tmp_path / "out", engine=Here(), log=logged.append)
    assert [line for line in logged if line.startswith("job ")] == [
        *("job small", "job broken", "job init-null"),
        next(line for line in logged if line.startswith("job init-runs-small")),
    ]
    assert not (tmp_path / "out" / "runs" / "unused").exists()
    assert [row.finished for row in made.table.rows] == [1, 1, 0]
    assert made.failures["broken (training)"].startswith("toy/means has a stride of 3")
    (name,) = (name for name in made.failures if name.startswith("init-runs-broken"))
    assert "needs the run 'broken', whose training has failed" in made.failures[name]


def test_an_interrupted_sweep_goes_on(tmp_path: Path, toy: None) -> None:
    class Interrupted(Here):
        """The user presses Ctrl-C in the second training."""

        def run(self, jobs: Sequence[Job], log: Say) -> Generator[tuple[Job, Ended], None, None]:
            yield from super().run(jobs[:1], log)
            raise KeyboardInterrupt

    study = Study.load(write_study(tmp_path, STUDY.replace(", 3.0e38", "")))
    with pytest.raises(
        RunInterruptedError, match=r"stopped: 2 of 4 trials are finished.*to continue: kgen sweep .*out"
    ):
        sweep(study, tmp_path / "out", engine=Interrupted(), log=lambda line: None)
    assert "2 of 4 trials are not finished" in (tmp_path / "out" / "sweep.md").read_text()
    logged: list[str] = []
    made = sweep(study, tmp_path / "out", engine=Here(), log=logged.append)
    assert [line for line in logged if line.startswith("job ")] == ["job seed-1"] and not made.failures
    sweep(study, tmp_path / "out", engine=Nowhere(), log=lambda line: None)


# The command, whose jobs run in processes of their own.


@pytest.mark.slow
def test_a_trained_run_is_evaluated_and_stays_as_it_is(kgen: Any, trained: Trained, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained.directory, tmp_path / "run"))
    before = snapshot(run)
    options = ("--over", "strength=0,1", "--seeds", "2", "-n", "2", "--metric", "brightness", "--set", "sample.seed=3")
    paths = environment()["PYTHONPATH"]
    outcome = kgen("sweep", run, *options, cwd=tmp_path, KERAS_BACKEND=quickest_backend(), PYTHONPATH=paths)
    assert outcome.status == 0, outcome
    assert snapshot(run) == before
    out = tmp_path / "sweeps" / "good-over-strength"
    first, second = (read_results(out / "trials" / f"strength-{strength}.json") for strength in (0, 1))
    assert list(first[0].values) == [3, 4] and first[0].protocol["images"] == 2
    assert first[0].mean != second[0].mean and first[0].fingerprint == second[0].fingerprint
    assert "brightness mean" in outcome.out and "±" in outcome.out and "sweep.html" in outcome.out
    assert "[1/1] good: 2 evaluations" in outcome.out and "\n  evaluating strength-0\n" in outcome.out
    assert (out / "sweep.yaml").read_text().startswith(MARK)
    again = kgen("sweep", out, cwd=tmp_path)
    assert again.status == 0 and "0 of them to be done" in again.out, again
    kgen("sweep", run, "--over", "seed=0,1").refuses("--over seed=0,1: seed: affects the training, but")
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("ema: 0.999", "ema: 0.99"))
    kgen("sweep", out, cwd=tmp_path).refuses("has changed since this sweep began (config.fit.ema: 0.999 there")
    shutil.copy(trained.directory / "config.yaml", run)
    kgen("evaluate", run, "--set", "evaluate.images=3", "--set", "sample.options.strength=0.5", cwd=tmp_path)
    kgen("sweep", out, cwd=tmp_path).refuses("has changed since this sweep began (sample.options", "evaluate.images")


def test_mistakes_on_the_command_line(kgen: Any, trained: Trained, good: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path)
    for arguments, message in (
        ((good,), "is not a study, so it needs an axis: give --over"),
        ((good, "--over", "strenght=1"), "--over strenght=1: strenght: unknown key; did you mean 'strength'?"),
        ((good, "--over", "fit.steps=1,x"), "--over fit.steps=1,x: fit.steps: must be a whole number, got 'x'"),
        ((good, "--over", "seed=1", "--over", "seed=2"), "the axis is given twice"),
        ((good, "--over", "seed=1", "--set", "fit.steps"), "--set fit.steps: must read KEY=VALUE"),
        ((good, "--over", "seed=1", "--set", "fit.steps=["), "--set fit.steps=[: "),
        ((good, "--over", "seed=1", "--metric", "{"), "--metric {: "),
        ((good, "--over", "seed=1", "--cpus", "2"), "--cpus: for --engine ray only"),
        ((good, "--over", "seed=1", "--metric", "brightnes"), "did you mean"),
        ((tmp_path / "none", "--over", "seed=1"), "there is no such file"),
        ((tmp_path, "--over", "seed=1"), "is not a run directory"),
        ((study, "--set", "set=3", "-o", good), "--set set=3: set: unknown key"),
        ((study, "-o", good), "is a file"),
    ):
        kgen("sweep", *arguments, cwd=tmp_path).refuses(message)
    assert not (tmp_path / "sweeps").exists()
    for command in ("run", "check"):
        kgen(command, study, cwd=tmp_path).refuses("is a study of several runs: run it with 'kgen sweep")


@pytest.mark.slow
def test_a_crash_ends_only_one_trial(
    site: Site, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = crash(site, trained.directory, tmp_path / "out", OneByOne(), monkeypatch, "os.getpid()")
    assert [row.finished for row in made.table.rows] == [1, 0, 1]
    (text,) = made.failures.values()
    assert text.startswith("the process ended with the signal SIGKILL (perhaps because the memory was full)")
    assert "evaluating strength-50" in text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_stopped_saves_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path, number: int) -> None:
    (tmp_path / "long.yaml").write_text(GOOD.replace("steps: 6,", "steps: 300, log_every: 5,"), encoding="utf-8")
    settings = ("sample.every=0", "fit.checkpoint_every=300", "fit.validate_every=300")
    arguments = ("long.yaml", "--over", "strength=0,1", "-o", "out", *(f"--set={text}" for text in settings))
    command = [sys.executable, "-m", "kgen.cli", "sweep"]
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment(PYTHONUNBUFFERED="1"), "text": True}
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    assert process.stdout is not None
    for line in process.stdout:
        if re.match(r"  step [1-9]\d*/300", line):
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    if number == signal.SIGINT:
        assert process.returncode == 130, (out, err)
        assert "stopped: 0 of 2 trials are finished" in err and "to continue: kgen sweep out" in err, err
        assert "Traceback" not in err
    run, end = tmp_path / "out" / "runs" / "long", time.monotonic() + 60
    while not (saved := list((run / "checkpoints").glob("step-*"))) and time.monotonic() < end:
        time.sleep(0.1)  # the job of a sweep that was killed notices that
    (step,) = (int(path.name.removeprefix("step-").split(".")[0]) for path in saved)
    assert 0 < step < 300
    done = subprocess.run([*command, "out"], capture_output=True, timeout=300, **options)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert min(map(int, re.findall(r"step (\d+)/", done.stdout))) > step, done.stdout
    assert len(list((tmp_path / "out" / "trials").glob("*.json"))) == 2


@pytest.mark.portable
@pytest.mark.parametrize("command", [pytest.param("run", marks=pytest.mark.slow), "job"])
def test_a_training_whose_output_is_closed_saves_a_checkpoint(tmp_path: Path, command: str) -> None:
    """`kgen run | head` closes the output. If `kgen sweep` is killed, the output of its job is closed, too."""
    text = GOOD.replace("steps: 6,", "steps: 3000, log_every: 1,").replace("_every: 3", "_every: 3000")
    (tmp_path / "long.yaml").write_text(text, encoding="utf-8")
    arguments = {"run": ["kgen.cli", "run", "long.yaml", "--out", "out"], "job": ["kgen.cli.job"]}[command]
    with subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=tmp_path,
        env=environment(PYTHONUNBUFFERED="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        if command == "job":
            job = Job("long", str(tmp_path / "out"), yaml.safe_load(text), [], str(tmp_path))
            process.stdin.write(job.to_json() + "\n")
            process.stdin.flush()
        first = next(int(line[5:].split("/")[0]) for line in process.stdout if re.match(r"step [1-9]", line))
        process.stdout.close()
        rows = tmp_path / "out" / "metrics.csv"
        while process.poll() is None and len(rows.read_text().splitlines()) < first + 400:  # it printed after 150
            time.sleep(0.05)
        process.stdin.close()
        assert process.wait(60) == {"run": 1, "job": 130}[command]
    (saved,) = (tmp_path / "out" / "checkpoints").glob("step-*")
    assert first < int(saved.name.removeprefix("step-").split(".")[0]) < 3000
