"""The study configs/studies/text-encoder.yaml: what its encoders can know, and that all of it runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from engines import Here

from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.inputs import EncoderInputs
from kgen.experiments.inputs import read_dataset
from kgen.parts.construction import adapt_encoder, build_encoder
from kgen.studies.study import Study
from kgen.studies.trials import make_plan
from kgen.sweeps.jobs import make_job
from kgen.sweeps.sweep import sweep

STUDY = Path(__file__).parent.parent / "configs" / "studies" / "text-encoder.yaml"

ENCODERS = ["none", "class", "bag of words", "transformer", "MiniLM", "CLIP"]

SPLITS: tuple[Split, ...] = ("train", "holdout")


def small(folder: Path) -> Study:
    """The study with one seed, one small generator and trainings of one step."""
    data = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    data["run"]["data"] |= {"count": 144, "validation": 0}
    data["run"]["fit"] = {"steps": 1, "batch_size": 8}
    data["run"]["sample"]["options"]["steps"] = 1
    for own in data["runs"].values():
        own["encoder"]["fit"] = {"steps": 1, "batch_size": 8}
    data["over"] |= {"seed": [0], "generator": {"tiny": {"generator.network.width": 8, "generator.network.depth": 1}}}
    data["evaluate"] = {"images": 4}
    (folder / "study.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return Study.load(folder / "study.yaml")


@pytest.mark.portable
def test_an_encoder_limits_the_accuracy_as_the_study_says(tmp_path: Path) -> None:
    """Of the prompts that look the same to a generator, it gets one right on average, whatever it guesses."""
    plan = make_plan(Study.load(STUDY), tmp_path)
    assert [training.name for training in plan.first] == ["clip", "judge"]
    assert len(plan.trials) == len(plan.trainings) == 36
    dataset = read_dataset(plan.trials[0].config.data)
    chosen = {trial.values["text encoder"].label: trial.config.encoder for trial in plan.trials}
    limits = {"none": (1, 1), "class": (9, 5), "bag of words": (54, 12), "transformer": (121, 23)}
    for name, limit in limits.items():
        encoder = build_encoder(chosen[name].choice)
        adapt_encoder(encoder, dataset)
        seen, held = (_inputs(encoder, dataset, split, ordered=name != "bag of words") for split in SPLITS)
        assert (len(set(seen)), len(set(held)), name) == (*limit, name)
        assert (len(seen), len(held)) == (121, 23)


def _inputs(encoder: Any, dataset: Dataset, split: Split, ordered: bool) -> list[bytes]:
    """What a generator is told about each prompt: its tokens, or their set."""
    captions, inputs = dataset.captions(split), EncoderInputs(dataset, split, encoder.fields)
    tokens = encoder.tokenize([inputs[captions.index(caption)] for caption in dict.fromkeys(captions)])
    (array,) = tokens.values()
    rows = array.reshape(len(array), -1)  # (N, L)
    return [row.tobytes() for row in (rows if ordered else np.sort(rows))]


@pytest.mark.slow
@pytest.mark.portable
def test_the_whole_study_runs(tmp_path: Path) -> None:
    made = sweep(study := small(tmp_path), out := tmp_path / "out", engine=Here(), log=print)
    assert not made.failures
    assert not (out / "runs" / "judge" / "model").exists(), "only its encoder is needed"
    assert [row.values["text encoder"].label for row in made.table.rows] == ENCODERS
    for name in ("attributes accuracy", "kernel-distance distance", "clip-score score", "zero-shot top 1"):
        for title in (name, f"{name} (holdout)"):  # each has one column, because the protocols are equal
            assert all(math.isfinite(row.cells[title].mean) for row in made.table.rows)
    assert len(list(out.glob("*.svg"))) == 7
    judge = make_job(make_plan(study, out / "runs").first[1], (), out / "trials", out / "failures")
    assert judge.name == "judge" and judge.is_trained
