"""kgen evaluate: which images are generated, what is kept, how it goes on, and two folders."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import GOOD, TOY, Trained, environment
from made_plugins import installed
from PIL import Image

import kgen as package
from kgen.config import RunConfig
from kgen.errors import ConfigError, DataError, RunError, RunInterruptedError
from kgen.evaluation import scoring
from kgen.evaluation.columns import make_columns
from kgen.evaluation.folders import evaluate_folders
from kgen.evaluation.plan import make_plan
from kgen.evaluation.proxy import read_proxy_scores
from kgen.evaluation.results import Result, read_results, to_scores, write_results
from kgen.evaluation.states import States
from kgen.experiments.experiment import open_experiment
from kgen.runs import evaluation
from kgen.runs.evaluation import evaluate
from kgen.runs.first_lines import first_lines
from kgen.runs.run import run
from kgen.storage.locks import output_lock

pytestmark = pytest.mark.portable


@pytest.fixture(autouse=True)
def toy() -> Any:
    with installed(TOY):
        yield


@pytest.fixture
def copy(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.directory, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- results -----------------------------------------------------------------------------------------------------


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = [
        Result(
            "frechet", "train", "distance", {0: 2.0, 1: 4.0, 2: 9.0}, {"images": 5, "dtype": "float64"}, "lower", True
        ),
        Result("likelihood", "validation", "bits per dimension", {7: 1.5}),
    ]
    write_results(tmp_path / "a.json", results)
    assert read_results(tmp_path / "a.json") == results
    first, second = results
    assert first.mean == 5.0 and first.standard_error == pytest.approx(math.sqrt(13 / 3))  # variance 13 of 3 values
    assert second.standard_error is None and second.label == "bits per dimension" and second.fingerprint == ""
    assert to_scores(results) == {"train": {"frechet distance": 5.0}, "validation": {"bits per dimension": 1.5}}


def test_scores_of_earlier_releases_are_read(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"train": {"brightness mean": 0.5, "bits per dimension": null}}')
    mean, bits = read_results(tmp_path / "old.json")
    assert (mean.metric, mean.name, mean.mean, mean.fingerprint) == ("brightness", "mean", 0.5, "")
    assert bits.title == "bits per dimension" and math.isnan(bits.mean)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 3, "results": []}', "has format 3, and this kgen reads only 2: install a newer kgen"),
        ('{"title": "", "format": 2, "results": [{"metric": "m"}]}', r"is damaged: results\.0\."),
        ('{"train": {"m": "x"}}', "is damaged: train.m"),
    ],
)
def test_damaged_and_newer_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(RunError, match=message):
        read_results(tmp_path / "a.json")
    good = Result("m", "train", "n", {0: 1.0})
    write_results(tmp_path / "a.json", [good])
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace('"0": 1.0', '"x": 1.0'))
    with pytest.raises(RunError, match=r"is damaged: results\.0\.values"):
        read_results(tmp_path / "a.json")


def test_numbers_of_different_protocols_have_different_columns() -> None:
    def result(images: int, value: float, **more: Any) -> Result:
        return Result("frechet", "train", "distance", {0: value}, {"images": images, **more})

    lists = [[result(1000, 1.0)], [result(50, 2.0)], [result(1000, 3.0)]]
    columns = make_columns(lists)
    assert [columns.row(results) for results in lists] == [
        {"frechet distance [1]": 1.0},
        {"frechet distance [2]": 2.0},
        {"frechet distance [1]": 3.0},
    ]
    (note,) = columns.notes
    assert note == "frechet distance [1] and [2] are not comparable, because they differ in images: 1,000, 50."
    same = make_columns([[result(50, 1.0)], [result(50, 2.0)]])
    assert [column.title for column in same.all] == ["frechet distance"] and not same.notes
    several = Result("frechet", "train", "distance", {0: 1.0, 1: 3.0}, {"images": 50})
    assert same.row([several]) == {"frechet distance": 2.0, "frechet distance standard error": 1.0}


# ---- plans -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "prompts", "expected"),
    [
        (5, None, {"red": 3, "green": 2}),
        (1, None, {"red": 1}),
        (4, 1, {"red": 4}),
        (None, None, {"red": 2, "green": 2}),
    ],
)
def test_prompts_share_the_images_evenly(
    copy: Path, images: int | None, prompts: int | None, expected: dict[str, int]
) -> None:
    pipeline = package.load(copy)
    config = RunConfig.load(copy / "config.yaml").evaluate.model_copy(
        update={"images": images, "max_prompts": prompts, "samples_per_prompt": 2, "batch_size": 1}
    )
    dataset = package.make_dataset({"name": "squares", "colors": ["red", "green"], "held": True})
    plan = make_plan(config, dataset, "train", pipeline.encoder.fields)
    counts = dict.fromkeys(expected, 0)
    numbers: list[tuple[str, int]] = []
    for portion in plan.portions:
        assert portion.images <= 2, "a portion has two batches at most"
        for row, first in zip(portion.rows, portion.first, strict=True):
            counts[plan.prompts.texts[row]] += portion.copies
            numbers += [(plan.prompts.texts[row], first + copy) for copy in range(portion.copies)]
    assert counts == expected and plan.images == sum(expected.values())
    assert sorted(numbers) == sorted((text, n) for text, count in expected.items() for n in range(count))
    shares = [plan.share(worker, 2) for worker in range(2)]
    assert sum(share.images for share in shares) == plan.images


# ---- runs --------------------------------------------------------------------------------------------------------


def test_seeds_and_images_through_the_command_line(kgen: Callable[..., Any], copy: Path) -> None:
    done = kgen("evaluate", copy, "-n", 6, "--seeds", 3)
    assert done.status == 0, done
    train, holdout = read_results(copy / "evaluation.json")
    assert list(train.values) == [0, 1, 2] and train.protocol["images"] == 6 and train.protocol["prompts"] == 2
    assert train.standard_error is not None and "\N{PLUS-MINUS SIGN}" in done.out
    assert holdout.label == "brightness mean (holdout)" and train.headline
    assert "scoring train: 6 images of 2 prompts, with each of 3 seeds" in done.out
    config = RunConfig.load(copy / "config.yaml").evaluate
    assert (config.images, config.seeds) == (6, 3)
    pipeline = package.load(copy)
    for seed in range(3):
        images = pipeline.generate(["red", "green"], n=3, seed=seed)
        assert train.values[seed] == pytest.approx(images.mean() / 255, abs=1e-6)


def test_an_output_file_leaves_the_run_as_it_is(kgen: Callable[..., Any], copy: Path, tmp_path: Path) -> None:
    before = contents(copy)
    done = kgen("evaluate", copy, "--set", "sample.options={strength: 3.0}", "-o", tmp_path / "out.json")
    assert done.status == 0, done
    assert contents(copy) == before
    assert read_results(tmp_path / "out.json")[0].mean != read_results(copy / "evaluation.json")[0].mean
    told = json.loads((tmp_path / "out.json").read_text())["measured"]
    assert told["run"] == str(copy) and told["step"] == 6 and told["sample"]["options"] == {"strength": 3.0}
    assert told["evaluate"]["metrics"] == [{"name": "toy/brightness"}] and told["evaluate"]["seeds"] == 1
    assert not list(tmp_path.glob(".*")), "the lock is still there"
    (tmp_path / "mine.json").write_text('{"precious": 1}')
    kgen("evaluate", copy, "-o", tmp_path / "mine.json").refuses("already exists, and kgen did not make it")
    kgen("evaluate", copy, "-o", tmp_path / "mine.txt").refuses("must end with '.json'")


def test_two_processes_cannot_write_one_output_file(
    kgen: Callable[..., Any], copy: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    with output_lock(out, "--output"):
        for target in ((copy,), folders):
            kgen("evaluate", *target, "-o", out).refuses(f"another process is working on {out}: wait for it")
    assert not out.exists()


def test_the_end_of_a_key_is_enough_if_no_other_key_ends_in_it(kgen: Callable[..., Any], copy: Path) -> None:
    settings = ("strength=2", "images=4", "sample.seed=3", "shared_noise=true")
    done = kgen("evaluate", copy, *(part for text in settings for part in ("--set", text)))
    assert done.status == 0, done
    config = RunConfig.load(copy / "config.yaml")
    assert (config.sample.options, config.sample.seed, config.sample.shared_noise) == ({"strength": 2}, 3, True)
    assert config.evaluate.images == 4
    before = contents(copy)
    for setting, message in (
        ("every=3", "--set every=3: every: several keys end in it: sample.every or evaluate.every"),
        ("strenght=1", "--set strenght=1: strenght: unknown key; did you mean 'strength'?"),
        ("strength=x", "--set strength=x: sample.options.strength: must be a number, got 'x'"),
        ("seed=3", "seed: 0 there, 3 now: train another run with 'kgen run', or change sample.seed"),
        ("guidance", "--set guidance: must read KEY=VALUE"),
    ):
        kgen("evaluate", copy, "--set", setting).refuses(message)
    assert contents(copy) == before


def test_another_metric_joins_those_of_the_run(kgen: Callable[..., Any], copy: Path) -> None:
    done = kgen("evaluate", copy, "--metric", "retrieval")
    assert done.status == 0, done
    results = read_results(copy / "evaluation.json")
    assert {result.metric for result in results} == {"retrieval", "brightness"}
    assert [m.name for m in RunConfig.load(copy / "config.yaml").evaluate.metrics] == [
        "toy/brightness",
        "kgen/retrieval",
    ]
    assert "retrieval R@1" in (copy / "report.html").read_text() and "brightness" not in done.out
    done = kgen("evaluate", copy, "--metric", "retrieval", "--set", "sample.seed=4")
    assert "note: config.yaml of the run is changed: sample.seed: 0 there, 4 now" in done.out
    assert {r.metric for r in read_results(copy / "evaluation.json")} == {"retrieval"}, "those were other images"


def test_the_command_run_keeps_what_evaluate_measured(
    kgen: Callable[..., Any], trained: Trained, copy: Path, tmp_path: Path
) -> None:
    assert kgen("evaluate", copy, "--metric", "retrieval", "-n", 4).status == 0
    before = [result for result in read_results(copy / "evaluation.json") if result.metric == "retrieval"]
    done = kgen("run", trained.config, "--out", copy, cwd=tmp_path)
    assert done.status == 0 and "kept the earlier scores of retrieval" in done.out, done
    results = read_results(copy / "evaluation.json")
    assert [result for result in results if result.metric == "retrieval"] == before
    assert {result.metric for result in results} == {"retrieval", "brightness"}
    done = kgen("run", trained.config, "--out", copy, "--set", "sample.seed=4", cwd=tmp_path)
    assert {r.metric for r in read_results(copy / "evaluation.json")} == {"brightness"}, "those were other images"


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("brightnes", "did you mean 'brightness'"),
        ("{name: brightness, x: 1}", "x"),
        ("[1]", "must be a name"),
        ("{", "--metric {"),
        ("kgen/attributes", "needs the dataset Shapes"),
    ],
)
def test_wrong_metrics_are_refused(kgen: Callable[..., Any], copy: Path, metric: str, message: str) -> None:
    before = contents(copy)
    kgen("evaluate", copy, "--metric", metric).refuses(message)
    assert contents(copy) == before


@pytest.mark.parametrize(("seconds", "kept"), [(0.0, 8), (60.0, 6)])  # what is finished for a seed is always kept
def test_an_interrupted_evaluation_goes_on(
    copy: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, kept: int
) -> None:
    settings = ["evaluate.images=12", "evaluate.batch_size=1", "evaluate.seeds=2"]
    whole = evaluate(copy, settings, out=copy / "whole.json")
    monkeypatch.setattr(scoring, "SAVE_SECONDS", seconds)
    calls: list[int] = []
    generate = package.Pipeline.generate

    def stopped_once(self: package.Pipeline, *given: Any, **options: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return generate(self, *given, **options)

    monkeypatch.setattr(package.Pipeline, "generate", stopped_once)
    with pytest.raises(RunInterruptedError, match="what was measured is kept"):
        evaluate(copy, settings, out=copy / "part.json")
    assert (copy / "part-unfinished").is_dir() and not (copy / "part.json").exists()
    logged: list[str] = []
    counted: list[tuple[int, int]] = []
    results = evaluate(
        copy, settings, out=copy / "part.json", log=logged.append, on_images=lambda *two: counted.append(two)
    )
    assert "continuing the evaluation that was interrupted" in logged
    assert len(calls) == 9 + 24 - kept, "each split and seed has 6 portions"
    assert counted[0] == (12, 48) and counted[-1] == (48, 48)
    assert [r.values for r in results] == [pytest.approx(r.values, rel=1e-6) for r in whole]
    assert not (copy / "part-unfinished").exists()


def test_what_was_measured_is_kept_until_the_results_are_written(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "SAVE_SECONDS", 0.0)
    settings, logged = ["evaluate.images=4", "evaluate.batch_size=1"], list[str]()

    def stopped(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "write_results", stopped)
        with pytest.raises(RunInterruptedError, match=r"what was measured is kept\. Give the same command again"):
            evaluate(copy, settings, out=copy / "out.json")
    evaluate(copy, settings, out=copy / "out.json", log=logged.append)
    assert "continuing the evaluation that was interrupted" in logged and not (copy / "out-unfinished").exists()


def test_results_of_another_model_are_not_kept(trained: Trained, copy: Path) -> None:
    """After more training, which was interrupted while it was scored, the file still has the older results."""
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["finished"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    grid = copy / "samples" / "final.png"
    grid.unlink()
    evaluate(copy, metrics=["retrieval"])
    assert {result.metric for result in read_results(copy / "evaluation.json")} == {"retrieval"}
    assert grid.is_file()


@pytest.mark.parametrize("workers", [0, 1.5])
def test_a_number_of_workers_that_is_none_is_refused(copy: Path, workers: Any) -> None:
    with pytest.raises(ConfigError, match="workers must be a whole number, 1 or more"):
        evaluate(copy, workers=workers)


def test_states_of_another_evaluation_are_discarded_and_foreign_files_kept(tmp_path: Path) -> None:
    states = States(tmp_path / "s", {"seed": 1})
    states.save("train-0", 3, {"brightness": {"levels": np.array(2.0)}})
    again = States(tmp_path / "s", {"seed": 1})
    assert again.continues
    assert again.load("train-0") == (3, {"brightness": {"levels": np.array(2.0)}}) and again.load("other") is None
    (tmp_path / "s" / "train-0.npz").write_bytes(b"damaged")
    assert again.load("train-0") is None
    other = States(tmp_path / "s", {"seed": 2})
    assert other.replaces and not other.continues and not (tmp_path / "s").exists()
    states.save("train-0", 3, {})
    (tmp_path / "s" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"holds thesis\.txt, which kgen did not make"):
        States(tmp_path / "s", {"seed": 2})
    assert (tmp_path / "s" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(("name", "key"), [("train-0.npz", False), ("mine.npz", True)])
def test_arrays_of_the_users_are_not_deleted(tmp_path: Path, name: str, key: bool) -> None:
    if key:
        States(tmp_path / "s", {"seed": 1}).claim()
    (tmp_path / "s").mkdir(exist_ok=True)
    np.savez(tmp_path / "s" / name, a=1)
    with pytest.raises(ConfigError, match=rf"holds {name}, which kgen did not make"):
        States(tmp_path / "s", {"seed": 2})
    assert (tmp_path / "s" / name).is_file()


def test_an_evaluation_does_not_continue_with_other_weights_of_a_metric(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    settings = ["evaluate.images=4", "evaluate.seeds=2"]
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "likelihood", stopped)
        with pytest.raises(RunInterruptedError, match="what was measured is kept"):
            evaluate(copy, settings, out=copy / "part.json")
    logged: list[str] = []
    monkeypatch.setattr(package.Metric, "protocol", lambda self: {"weights": "other"})
    evaluate(copy, settings, out=copy / "part.json", log=logged.append)
    assert any("had other settings" in line for line in logged), logged


def test_a_damaged_file_of_results_is_named_before_the_measurement(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "evaluation.json").write_text("{")
    monkeypatch.setattr(package.Pipeline, "generate", None)
    with pytest.raises(RunError, match=r"evaluation\.json is damaged.* without --metric, which writes the file anew"):
        evaluate(copy, metrics=["retrieval"])


def test_an_output_file_cannot_be_that_of_the_run(copy: Path) -> None:
    before = contents(copy)
    with pytest.raises(ConfigError, match="has the results of the run: leave --output out"):
        evaluate(copy, out=copy / "samples" / ".." / "evaluation.json")
    assert contents(copy) == before


@pytest.mark.slow
def test_several_workers_measure_the_same(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    settings = ["evaluate.images=12", "evaluate.batch_size=1", "evaluate.seeds=2"]
    alone = evaluate(copy, settings, out=copy / "one.json")
    counted: list[tuple[int, int]] = []
    shared = evaluate(copy, settings, out=copy / "two.json", workers=2, on_images=lambda *two: counted.append(two))
    assert [r.values for r in shared] == [pytest.approx(r.values, rel=1e-6) for r in alone]
    assert counted[-1] == (48, 48) and [r.protocol for r in shared] == [r.protocol for r in alone]


def test_too_few_images_are_refused_before_the_training(kgen: Callable[..., Any], good: Path) -> None:
    good.write_text(
        good.read_text().replace(
            "[brightness]", "[{name: metrics/precision-recall, features: {kind: pixels, size: 2}}]"
        )
    )
    kgen("check", good).refuses("'precision-recall' needs at least 4 images per split, but only 2 would be generated")


def test_scores_during_a_training_are_a_proxy(tmp_path: Path) -> None:
    config = RunConfig.from_dict(
        yaml.safe_load(GOOD), ["evaluate.every=2", "evaluate.proxy_images=5", "fit.steps=4", "sample.every=0"]
    )
    run(config, tmp_path / "run", log=lambda text: None)
    scores = read_proxy_scores(tmp_path / "run" / "proxy.csv")
    assert [(s.step, s.split, s.metric, s.images) for s in scores] == [
        (step, split, "brightness mean", 5) for step in (2, 4) for split in ("train", "holdout")
    ]
    assert scores[0].value != scores[2].value
    (train, _) = read_results(tmp_path / "run" / "evaluation.json")
    assert train.protocol["images"] == 2, "the final scores are not the proxy's"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "brightness mean of at most 5 images per split" in page and "These scores are a proxy" in page


def test_a_metric_that_needs_more_images_than_the_proxy_has_is_named(good: Path) -> None:
    settings = ["evaluate.metrics=[{name: metrics/precision-recall, k: 7, features: {kind: pixels}}]"]
    for every, expected in ((0, []), (2, ["precision-recall is not measured during the training: it needs 8 images"])):
        config = RunConfig.load(good, [*settings, f"evaluate.every={every}", "evaluate.proxy_images=5"])
        lines = [line for line in first_lines(open_experiment(config)) if "during the training" in line]
        assert [line.split(", but")[0] for line in lines] == expected


# ---- folders -----------------------------------------------------------------------------------------------------


def save(folder: Path, name: str, image: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / name)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of images of two sizes; the images of the second are brighter by 10."""
    random = np.random.default_rng(0)
    for number in range(8):
        size = 8 if number % 2 else 12
        image = random.integers(0, 200, (size, size, 3), dtype=np.uint8)
        save(tmp_path / "a", f"{number}.png", image)
        save(tmp_path / "b", f"{number}.png", image + 10)
    return tmp_path / "a", tmp_path / "b"


PIXELS = "{name: metrics/frechet, features: {kind: pixels, size: 2}}"


def test_two_folders_are_compared(kgen: Callable[..., Any], folders: tuple[Path, Path], tmp_path: Path) -> None:
    done = kgen("evaluate", *folders, "--metric", PIXELS, "--metric", "psnr", "-o", tmp_path / "out.json")
    assert done.status == 0, done
    distance, psnr = (r for r in read_results(tmp_path / "out.json") if r.headline)
    assert distance.mean == pytest.approx(12 * (10 / 255) ** 2, rel=1e-4)  # equal covariances: means of 4 boxes
    assert psnr.mean == pytest.approx(20 * math.log10(255 / 10), rel=1e-6)
    assert distance.protocol["images"] == 8 and distance.protocol["source format"] == "png"
    same = kgen("evaluate", folders[0], folders[0], "--metric", PIXELS, "-o", tmp_path / "same.json")
    assert same.status == 0 and read_results(tmp_path / "same.json")[0].mean == pytest.approx(0, abs=1e-9)


def test_files_without_a_pair_and_two_of_one_name(kgen: Callable[..., Any], folders: tuple[Path, Path]) -> None:
    a, b = folders
    (b / "3.png").unlink()
    done = kgen("evaluate", a, b, "--metric", "psnr")
    assert done.status == 0 and "1 of 8 images have no reference of the same name" in done.out
    save(b, "4.bmp", np.zeros((12, 12, 3), np.uint8))
    kgen("evaluate", a, b, "--metric", "psnr").refuses("has 2 images named 4")
    (b / "4.bmp").unlink()
    save(b, "5.png", np.zeros((9, 8, 3), np.uint8))
    kgen("evaluate", a, b, "--metric", "psnr").refuses("5 has 8x8 pixels, but its reference has 8x9")


def test_a_pair_may_be_anywhere_in_a_larger_folder_of_references(folders: tuple[Path, Path]) -> None:
    """Of the references, too, only 8 are chosen as a set."""
    a, b = folders
    for number in range(50):
        save(b, f"another-{number}.png", np.zeros((8, 8, 3), np.uint8))
    logged: list[str] = []
    found = evaluate_folders(
        a, b, metrics=["psnr", {"name": "metrics/frechet", "features": {"kind": "pixels"}}], limit=8, log=logged.append
    )
    psnr, distance = (result for result in found if result.headline)
    assert psnr.mean == pytest.approx(20 * math.log10(255 / 10), rel=1e-6) and psnr.protocol["images"] == 8
    assert (
        str(distance.protocol["reference"]).startswith("8 images") and distance.protocol["metric"] == "metrics/frechet"
    )
    assert not any("no reference" in line for line in logged)


def test_folders_that_cannot_be_compared(
    kgen: Callable[..., Any], folders: tuple[Path, Path], copy: Path, tmp_path: Path
) -> None:
    a, b = folders
    (tmp_path / "empty").mkdir()
    kgen("evaluate", a, tmp_path / "empty", "--metric", PIXELS).refuses("empty holds no image")
    kgen("evaluate", a, tmp_path / "none").refuses("there is no folder")
    kgen("evaluate", a).refuses("is not a run directory", "give a folder of reference images, too")
    kgen("evaluate", copy, a).refuses("run is a run directory: give one run alone, or two folders of images")
    kgen("evaluate", a, b, "--metric", "retrieval").refuses("kgen/retrieval needs prompts", "metrics/frechet")
    kgen("evaluate", a, b, "--metric", "{name: frechet, reference: x.npz}").refuses(
        "the second folder is the reference"
    )
    kgen("evaluate", a, b, "--seeds", 2).refuses("--seeds is an option for runs, but two folders are compared")
    kgen("evaluate", a, b, "--changed-data").refuses("--changed-data is an option for runs")
    kgen("evaluate", a, b, "--metric", PIXELS, "--metric", PIXELS.replace("2", "3")).refuses("'frechet' is given twice")
    (a / "broken.png").write_bytes(b"\x89PNG broken")
    kgen("evaluate", a, b, "--metric", PIXELS).refuses("broken.png: is not an image, or is damaged")
    kgen("evaluate", copy, "--metric", "psnr").refuses("'psnr' compares pairs of images")


def test_metrics_that_need_more_references_are_left_out_by_default(folders: tuple[Path, Path]) -> None:
    a, b = folders
    for number in range(1, 8):
        (b / f"{number}.png").unlink()
    logged: list[str] = []
    few = "it needs at least 2 references, and there is only 1"
    found = evaluate_folders(a, b, log=logged.append)
    assert {result.metric for result in found if result.headline} == {"psnr", "ssim"}
    assert {"note: frechet is left out: " + few, "note: kernel-distance is left out: " + few} <= set(logged)
    with pytest.raises(DataError, match=few):
        evaluate_folders(a, b, metrics=["psnr", "frechet"], log=logged.append)


def test_metrics_that_refuse_small_images_are_left_out_by_default(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        save(tmp_path / folder, "0.png", np.zeros((8, 8, 3), np.uint8))
    logged: list[str] = []
    found = evaluate_folders(tmp_path / "a", tmp_path / "b", log=logged.append)
    assert {result.metric for result in found} == {"psnr"}
    assert "note: ssim is left out: ssim: images must have at least 11x11 pixels, not 8x8" in logged


def test_broken_links_are_named_and_links_are_followed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = folders
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "images").symlink_to(a)
    (psnr, _) = evaluate_folders(linked / "images", a, metrics=["psnr"])
    (distance,) = evaluate_folders(linked, b, metrics=[{"name": "metrics/frechet", "features": {"kind": "pixels"}}])
    assert psnr.protocol["images"] == distance.protocol["images"] == 8
    for folder, name in ((a, "9.png"), (b, "more")):
        (folder / name).symlink_to(tmp_path / "gone")
        with pytest.raises(DataError, match=rf"{folder / name}: this symbolic link is broken\. Repair what is named"):
            evaluate_folders(a, b, metrics=["psnr"])
        (folder / name).unlink()


def test_the_file_of_results_is_json_that_others_can_read(copy: Path) -> None:
    found = json.loads((copy / "evaluation.json").read_text())
    assert found["title"] == "kgen evaluation" and found["format"] == 2
    first = found["results"][0]
    assert set(first) == {
        *("metric", "split", "name", "values", "mean", "standard_error", "protocol", "fingerprint", "better"),
        "headline",
    }
    assert len(first["fingerprint"]) == 12 and first["protocol"]["metric"] == "toy/brightness"
