"""Averages that are made after a training equal those that were kept in it (Karras et al. 2024, section 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file
from test_training import Vanishing, run

from kgen import ConfigError, load
from kgen.config import FitConfig, RunConfig
from kgen.storage.checkpoints import checkpoint_file, checkpoint_steps
from kgen.storage.paths import weight_paths
from kgen.storage.weights import save_variables
from kgen.training.checkpoint import training_state
from kgen.training.optimizers.power_average import combination, gamma_of, share_of_newest
from kgen.training.snapshots import Snapshots, average_after

WIDTHS = (0.05, 0.1)
OTHERS = (0.07, 0.15, 0.2)
"""Widths that are only made afterwards."""


@pytest.mark.backends
def test_the_profile_of_an_average_has_its_width() -> None:
    assert [gamma_of(std) for std in WIDTHS] == pytest.approx([16.97, 6.94], abs=0.005)  # the paper, section 3.1
    for std in (*WIDTHS, 0.28):
        shares = np.zeros(400)
        for step in range(1, 401):
            newest = float(share_of_newest(ops.convert_to_tensor(np.float32(step)), gamma_of(std)))
            shares *= 1.0 - newest
            shares[step - 1] = newest
        steps = np.arange(1, 401)
        mean = (shares * steps).sum()
        assert shares.sum() == pytest.approx(1.0, abs=1e-5)
        assert np.sqrt((shares * (steps - mean) ** 2).sum()) / 400 == pytest.approx(std, rel=0.01)


@pytest.mark.portable
def test_the_share_of_the_newest_weights_is_exact_late_in_a_training() -> None:
    found = float(share_of_newest(ops.convert_to_tensor(np.float32(3e6)), gamma_of(0.05)))
    assert found == pytest.approx((gamma_of(0.05) + 1) / 3e6, rel=1e-4)


@pytest.mark.portable
def test_averages_of_a_random_walk(tmp_path: Path) -> None:
    rng, weights, snapshots = np.random.default_rng(0), np.zeros(50), Snapshots(tmp_path, WIDTHS)
    kept = {std: np.zeros(50) for std in (*WIDTHS, *OTHERS)}
    early: dict[float, np.ndarray] = {}
    for step in range(1, 2001):
        weights = weights + rng.normal(size=50)
        for std, average in kept.items():
            decay = (1.0 - 1.0 / step) ** (gamma_of(std) + 1.0)
            kept[std] = decay * average + (1.0 - decay) * weights
        if step % 100 == 0:
            arrays = {f"{std:g}/w": kept[std].astype(np.float32) for std in WIDTHS}
            save_variables(checkpoint_file(tmp_path, step), arrays, {})
        if step == 1400:
            early = dict(kept)
    for std in OTHERS:
        for step, direct in ((None, kept), (1400, early)):
            averages, error = snapshots.average({"w": np.zeros(50)}, std, step)
            assert np.linalg.norm(averages["w"] - direct[std]) < 0.01 * np.linalg.norm(direct[std]), (std, step)
            assert error < 0.1


@pytest.mark.portable
def test_a_stored_average_is_its_own_combination() -> None:
    factors, error = combination([100, 100, 200, 200], [*WIDTHS, *WIDTHS], 200, 0.1)
    np.testing.assert_allclose(factors, [0, 0, 0, 1], atol=1e-6)
    assert error < 1e-6


@pytest.mark.backends
def test_averages_of_a_training(tmp_path: Path) -> None:
    fit = {"ema": {"std": WIDTHS, "every": 3}, "learning_rate": 0.05}
    pipeline, _ = run(tmp_path / "one", 30, Vanishing(), **fit)
    direct, _ = run(tmp_path / "other", 30, Vanishing(), **{**fit, "ema": {"std": OTHERS}})
    start, _ = run(tmp_path / "start", 1, Vanishing(), **fit)
    weights = weight_paths(pipeline, pipeline.trainable_variables)
    for number, std in enumerate(OTHERS):
        averages, _ = Snapshots(tmp_path / "one" / "ema", WIDTHS).average(weights, std)
        index = {id(weight): place for place, weight in enumerate(direct.trainable_variables)}
        kept = {
            path: np.array(direct.optimizer.kept_averages[number][index[id(weight)]].numpy())
            for path, weight in weight_paths(direct, direct.trainable_variables).items()
        }
        began = {path: np.array(w.numpy()) for path, w in weight_paths(start, start.trainable_variables).items()}
        flat = [np.concatenate([arrays[path].ravel() for path in kept]) for arrays in (averages, kept, began)]
        assert np.linalg.norm(flat[0] - flat[1]) < 0.01 * np.linalg.norm(flat[1])
        assert np.linalg.norm(flat[0] - flat[1]) < 0.1 * np.linalg.norm(flat[1] - flat[2])


@pytest.mark.backends
def test_a_killed_training_goes_on_with_the_same_averages_and_snapshots(tmp_path: Path) -> None:
    fit = {"ema": {"std": WIDTHS, "every": 3, "keep": 3}}
    whole, _ = run(tmp_path / "whole", 12, Vanishing(), **fit)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", 12, Vanishing(), stop=9, **fit)
    assert checkpoint_steps(tmp_path / "killed" / "ema") == [3, 6]
    save_variables(checkpoint_file(tmp_path / "killed" / "ema", 9), {"stale": np.zeros(1)}, {})
    pipeline, _ = run(tmp_path / "killed", 12, Vanishing(), **fit)
    expected = training_state(whole)
    for name, variable in training_state(pipeline).items():
        np.testing.assert_array_equal(variable.numpy(), expected[name].numpy(), err_msg=name)
    assert any("power1" in name for name in expected)
    for folder in ("whole", "killed"):
        assert checkpoint_steps(tmp_path / folder / "ema") == [6, 9, 12]
    for step in (6, 9, 12):
        one, other = (load_file(checkpoint_file(tmp_path / name / "ema", step)) for name in ("whole", "killed"))
        assert one.keys() == other.keys() and any(key.startswith("0.1/generator/") for key in one)
        for key, array in one.items():
            np.testing.assert_array_equal(array, other[key], err_msg=key)


RUN = {
    "data": {"name": "made/patterns", "count": 9, "size": 4},
    "encoder": "made/words",
    "generator": "made/painter",
    "fit": {"steps": 6, "batch_size": 4, "warmup_steps": 0, "learning_rate": 0.05, "ema": {"every": 2}},
    "sample": {"every": 0},
    "loggers": [],
}


@pytest.mark.portable
def test_kgen_average_writes_a_model_that_generate_reads(kgen: Any, made_plugin: None, tmp_path: Path) -> None:
    from kgen.runs.run import run as train

    path = tmp_path / "run"
    train(RunConfig.from_dict(RUN), path, log=lambda line: None)
    outcome = kgen("average", path, "--std", "0.15")
    assert outcome.status == 0 and str(path / "averages" / "0.15") in outcome.out, outcome
    expected, _ = average_after(path, 0.15)
    made = [pipeline.generate(["pattern 1"]) for pipeline in (load(path / "averages" / "0.15"), expected, load(path))]
    np.testing.assert_array_equal(made[0], made[1])
    assert np.abs(made[0].astype(int) - made[2]).max() > 0
    outcome = kgen("generate", path / "averages" / "0.15", "pattern 1", "-o", tmp_path / "made.png")
    assert outcome.status == 0 and (tmp_path / "made.png").is_file(), outcome
    kgen("average", path, "--std", "0.15", "--step", "7").refuses("has snapshots of steps 2 to 6", "up to 7")
    kgen("average", path, "--std", "0.3").refuses("at most 0.28")
    plain = {**RUN, "fit": {**RUN["fit"], "ema": 0.9, "steps": 1}}  # type: ignore[dict-item]
    train(RunConfig.from_dict(plain), tmp_path / "plain", log=lambda line: None)
    kgen("average", tmp_path / "plain", "--std", "0.15").refuses("train with two of them")


@pytest.mark.portable
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ema": {"std": [0.1, 0.1]}}, "has the same width twice"),
        ({"ema": {"std": [0.1]}}, "at least 2 items"),
        ({"ema": {"std": [0.1, 0.3]}}, "at most 0.28|less than or equal to 0.28"),
        ({"ema": {}, "lora": {"rank": 2}}, "give a decay as 'ema'"),
    ],
)
def test_a_wrong_choice_of_averages_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        FitConfig(steps=3, **change)


@pytest.mark.portable
def test_stages_take_a_decay_only(made_plugin: None) -> None:
    stage = {"name": "made/codec", "fit": {"steps": 2, "ema": {}}}
    with pytest.raises(ConfigError, match=r"decoder\.fit\.ema: must be a decay or null"):
        RunConfig.from_dict({**RUN, "decoder": stage})
