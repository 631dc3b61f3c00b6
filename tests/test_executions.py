"""Several steps in one call of the training function: the same weights and rows, and an exact resume."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file
from test_training import Vanishing, make, run

import kgen
from kgen.backend.stream import Watched
from kgen.config import RunConfig
from kgen.data.loader import Loader
from kgen.pipeline.model import Pipeline
from kgen.training.checkpoint import Checkpoints, training_state
from kgen.training.journal import read_rows

EVERY = {"log_every": 4, "checkpoint_every": 4, "validate_every": 8}


def state(pipeline: Pipeline) -> dict[str, np.ndarray]:
    return {name: np.array(keras.ops.convert_to_numpy(v)) for name, v in training_state(pipeline).items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)


@pytest.mark.backends
@pytest.mark.parametrize("micro_batches", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_weights_are_those_of_single_steps_also_after_a_resume(micro_batches: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {**EVERY, "gradient_accumulation": micro_batches, "ema": 0.9}
    single, _ = run(tmp_path / "single", 8, Vanishing(), **options)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "four", 8, Vanishing(), stop=8, steps_per_execution=4, **options)
    assert Checkpoints(tmp_path / "four" / "checkpoints", 1).steps() == [4]
    four, progress = run(tmp_path / "four", 8, Vanishing(), steps_per_execution=4, **options)
    assert progress.step == 8 and len(four.optimizer.averages)
    same(state(single), state(four))
    rows, wanted = (read_rows(tmp_path / name / "metrics.csv") for name in ("four", "single"))
    assert [row["step"] for row in rows] == [row["step"] for row in wanted] == ["4", "8", "8"]
    for row, other in zip(rows, wanted, strict=True):
        assert all(row[name] == other[name] for name in ("loss", "noise", "gradient_norm", "val_loss"))


@dataclass
class Failing:
    """Batches of which only the first can be read."""

    batches: Iterable[dict[str, Any]]
    good: int

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from itertools.islice(self.batches, self.good)
        raise kgen.DataError("pattern.png has vanished")


class Broken(Loader):
    """The sixth batch cannot be read."""

    def training(self, *, start: int = 0, seed: int = 0) -> Iterable[dict[str, Any]]:
        return Failing(super().training(start=start, seed=seed), 5 - start)


@pytest.mark.portable
def test_an_error_in_the_data_costs_the_steps_of_one_call(tmp_path: Path) -> None:
    options = {**EVERY, "checkpoint_every": 8}
    whole, _ = run(tmp_path / "whole", 8, Vanishing(), **options)
    with pytest.raises(kgen.DataError, match=r"has vanished\nThe checkpoint of step 4 is saved"):
        run(tmp_path / "broken", 8, Vanishing(), loader=Broken, steps_per_execution=4, **options)
    resumed, _ = run(tmp_path / "broken", 8, Vanishing(), steps_per_execution=4, **options)
    same(state(whole), state(resumed))
    with pytest.raises(kgen.ConfigError, match=r"steps_per_execution: 3 does not divide 8, the step of the newest"):
        run(tmp_path / "broken", 12, Vanishing(), steps_per_execution=3, **dict.fromkeys(EVERY, 12))


class Diverging(Loader):
    """The sixth batch has a loss that is NaN."""

    def training(self, *, start: int = 0, seed: int = 0) -> Iterable[dict[str, Any]]:
        batches = itertools.islice(super().training(start=start, seed=seed), 16 - start)
        return [
            {**batch, "weight": np.full(4, np.nan if number == 6 else 1.0, np.float32)}
            for number, batch in enumerate(batches, start + 1)
        ]


@pytest.mark.backends
def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    """It occurs within the second call, of which nothing is saved or logged."""
    options: dict[str, Any] = {**EVERY, "steps_per_execution": 4}
    with pytest.raises(kgen.RunError, match=r"diverged by step 8: .*; the checkpoint of step 4 is kept"):
        run(tmp_path, 8, Vanishing(), loader=Diverging, **options)
    assert Checkpoints(tmp_path / "checkpoints", 1).steps() == [4]
    assert [row["step"] for row in read_rows(tmp_path / "metrics.csv")] == ["4"]
    saved = load_file(tmp_path / "checkpoints" / "step-00000004.safetensors")
    assert saved and all(np.isfinite(array).all() for array in saved.values())


@pytest.mark.portable
def test_a_checkpoint_between_two_rows_is_not_written_after_such_a_loss(tmp_path: Path) -> None:
    options: dict[str, Any] = {**EVERY, "log_every": 16, "validate_every": 16, "steps_per_execution": 4}
    with pytest.raises(kgen.RunError, match=r"diverged by step 8: .*; the checkpoint of step 4 is kept"):
        run(tmp_path, 16, Vanishing(), loader=Diverging, **options)
    assert Checkpoints(tmp_path / "checkpoints", 1).steps() == [4]


@pytest.mark.portable
def test_an_error_is_known_before_the_group_of_batches_that_has_it() -> None:
    numbers = [{"a": np.array([number])} for number in range(7)]
    watched = Watched(Failing(numbers, 7), group=3)
    batches = iter(watched)
    for number in range(6):
        watched.raise_failure(number)
        assert int(next(batches)["a"][0]) == number
    with pytest.raises(kgen.DataError, match="has vanished"):
        watched.raise_failure(6)
    assert [int(next(batches)["a"][0]) for _ in range(3)] == [5, 5, 5]
    with pytest.raises(kgen.DataError, match="has vanished"):
        next(iter(Watched(Failing(numbers, 7), group=8)))
    assert list(Watched(numbers, group=3)) == numbers


@pytest.mark.portable
def test_steps_that_do_not_divide_the_intervals_are_refused() -> None:
    config = {"data": {"name": "shapes"}, "encoder": "text/bag", "generator": "diffusion/diffusion"}
    fit = {"steps": 100, "log_every": 20, "checkpoint_every": 50, "validate_every": 25, "steps_per_execution": 5}
    sample = {"every": 50}
    assert RunConfig.from_dict({**config, "fit": fit, "sample": sample}).fit.steps_per_execution == 5
    power = {"ema": {"std": [0.05, 0.1], "every": 12}}
    for given, others, message in (
        (
            {"steps_per_execution": 10},
            {},
            r"fit: steps_per_execution is 10, .* not divide validate_every \(25\): choose",
        ),
        ({"steps": 99, "log_every": 7}, {}, r"is 5, which does not divide steps \(99\), log_every \(7\): choose"),
        (power, {}, r"does not divide ema\.every \(12\)"),
        ({}, {"sample": {"every": 7}}, r"fit\.steps_per_execution: is 5, .* sample\.every \(7\)"),
        ({}, {"evaluate": {"every": 8}}, r"fit\.steps_per_execution: is 5, .* evaluate\.every \(8\)"),
    ):
        with pytest.raises(kgen.ConfigError, match=message):
            RunConfig.from_dict({**config, "sample": sample, **others, "fit": {**fit, **given}})
    with pytest.raises(kgen.ConfigError, match="steps_per_execution must be a positive whole number, not 0"):
        make(Vanishing()).compile("sgd", steps_per_execution=0)
