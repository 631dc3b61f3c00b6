"""A training's loop: what its losses are the mean of, what ends it, and what is left when it ends by an error."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from parts import Painter, Patterns, Words
from safetensors.numpy import load_file

import kgen
from kgen.backend.precision import precision
from kgen.backend.stream import Watched
from kgen.config import FitConfig
from kgen.contracts.dataset import Split
from kgen.data.loader import Loader
from kgen.training.averages import averaged_weights
from kgen.training.checkpoint import Checkpoints, training_state
from kgen.training.distribution.base import Distribution
from kgen.training.fit import Progress, compile_model, train
from kgen.training.journal import read_rows
from kgen.training.optimizers.averaging import averaging
from kgen.training.optimizers.of_keras import AdamW

AveragingAdamW = averaging(AdamW)

FIT = {"batch_size": 4, "warmup_steps": 0, "log_every": 3, "checkpoint_every": 4, "validate_every": 5, "keep": 9}


class Vanishing(Patterns):
    """Images of which one can no longer be read from some time on."""

    missing: tuple[Split, int] | None = None
    error: Exception = kgen.DataError("pattern.png has vanished")

    def captions(self, split: Split) -> list[str]:
        return [f"{split} {i}" for i in range(8)] if split == "validation" else super().captions(split)

    def image(self, split: Split, index: int) -> np.ndarray:
        if self.missing == (split, index):
            raise self.error
        return super().image(split, index)


def make(dataset: Patterns, **options: Any) -> kgen.Pipeline:
    keras.utils.set_random_seed(0)
    encoder = Words()
    encoder.adapt(dataset.captions("train"))
    painter = Painter(dataset.image_space, encoder.condition_space, **options)
    return kgen.assemble(encoder=encoder, generator=painter, dataset=dataset, condition_dropout=0.0)


def run(
    folder: Path, steps: int, dataset: Patterns, stop: int = 0, loader: type[Loader] = Loader, **options: Any
) -> tuple[kgen.Pipeline, Progress]:
    """Trains in this process; `stop`: from what step on to be killed."""
    pipeline = make(dataset)
    fit = FitConfig(**{"steps": steps, **FIT, **options})
    compile_model(pipeline, fit)
    encoder = pipeline.encoder
    validation = Loader(dataset, encoder, batch_size=4, split="validation") if dataset.captions("validation") else None

    def kill(step: int, values: Any) -> None:
        if stop and step >= stop:
            raise KeyboardInterrupt

    progress = train(
        pipeline,
        fit,
        folder,
        data=loader(dataset, encoder, batch_size=4),
        validation=validation,
        distribution=Distribution(),
        seed=0,
        listeners=[kill],
    )
    return pipeline, progress


Whole = tuple[Path, kgen.Pipeline]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Twelve steps without a break: the run directory, and what was trained."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, 12, Vanishing())[0]


def batch_of(pipeline: kgen.Pipeline, dataset: Patterns, count: int) -> dict[str, Any]:
    return pipeline.inputs([dataset.image("train", i) for i in range(count)], dataset.captions("train")[:count])


# ---- weights of examples ------------------------------------------------------------------------------------------


@pytest.mark.backends
@pytest.mark.parametrize("way", ["sample_weight", "in the batch"])
def test_examples_are_weighted(way: str) -> None:
    dataset = Patterns()
    pipeline = make(dataset, noise=0.0)
    batch = batch_of(pipeline, dataset, 6)
    each = ops.convert_to_numpy(pipeline(batch)["loss"]).astype(np.float64)
    weight = np.array([1, 0, 2, 0.5, 3, 0], np.float32)
    pipeline.compile("sgd")
    given = {"x": batch, "sample_weight": weight} if way == "sample_weight" else {"x": {**batch, "weight": weight}}
    for size in (6, 4):  # one batch, or two
        found = pipeline.evaluate(**given, batch_size=size, verbose=0, return_dict=True)
        assert found["loss"] == pytest.approx((weight * each).sum() / weight.sum(), rel=1e-5)
    assert pipeline.evaluate(batch, batch_size=4, verbose=0)[0] == pytest.approx(each.mean(), rel=1e-5)


@pytest.mark.backends
def test_an_example_without_weight_does_not_train() -> None:
    dataset = Patterns()
    trained = []
    for weight, count in (([1, 1, 1, 0, 0], 5), (None, 3)):
        pipeline = make(dataset, noise=0.0)
        pipeline.compile(keras.optimizers.SGD(1.0))
        weights = None if weight is None else np.array(weight, np.float32)
        pipeline.fit(batch_of(pipeline, dataset, count), sample_weight=weights, batch_size=5, verbose=0)
        trained.append([np.array(v.numpy()) for v in pipeline.trainable_variables])
    for one, other in zip(*trained, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_arguments_that_fit_would_ignore_are_refused() -> None:
    dataset = Patterns()
    pipeline = make(dataset)
    for name in ("loss", "metrics", "weighted_metrics", "loss_weights"):
        with pytest.raises(kgen.ConfigError, match=rf"no {name}: Pipeline minimizes 'loss'.*override compute_losses"):
            pipeline.compile("sgd", **{name: ["mse"]})
    pipeline.compile("sgd")
    batch = batch_of(pipeline, dataset, 4)
    for method in (pipeline.fit, pipeline.train_on_batch):
        with pytest.raises(kgen.ConfigError, match="give sample_weight"):
            method(batch, class_weight={0: 1.0})
    with pytest.raises(kgen.ConfigError, match=r"one number per example, \(B,\)"):
        pipeline.test_on_batch(batch, sample_weight=np.ones((4, 2), np.float32))
    with pytest.raises(kgen.ConfigError, match="leave y out"):
        pipeline.test_on_batch(batch, np.ones(4))


@pytest.mark.backends
def test_regularizers_are_minimized() -> None:
    dataset = Patterns()
    moved = []
    for penalty in (0.0, 0.5):
        pipeline = make(dataset, noise=0.0)
        pipeline.generator.net.layers[1].kernel.regularizer = keras.regularizers.L2(penalty)
        kernel = pipeline.generator.net.layers[1].kernel
        before = np.array(kernel.numpy())
        pipeline.compile(keras.optimizers.SGD(0.1))
        pipeline.train_on_batch(batch_of(pipeline, dataset, 4))
        moved.append(np.array(kernel.numpy()))
    np.testing.assert_allclose(moved[1], moved[0] - 0.1 * 2 * 0.5 * before, rtol=1e-4, atol=1e-6)


@pytest.mark.backends
def test_averages_are_found_inside_of_a_loss_scale() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        dataset = Patterns()
        pipeline = make(dataset)
    finally:
        keras.config.set_dtype_policy("float32")
    pipeline.compile(AveragingAdamW(0.05, average=0.5))
    assert type(pipeline.optimizer).__name__ == "LossScaleOptimizer"
    for _ in range(3):
        pipeline.train_on_batch(batch_of(pipeline, dataset, 4))
    weight, average = pipeline.trainable_variables[0], pipeline.optimizer.inner_optimizer.averages[0]
    raw = np.array(weight.numpy())
    assert not np.array_equal(raw, average.numpy())
    with averaged_weights(pipeline):
        np.testing.assert_array_equal(weight.numpy(), average.numpy())
    np.testing.assert_array_equal(weight.numpy(), raw)


@pytest.mark.backends
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_training_in_16_bits_resumes_exactly(tmp_path: Path, policy: str) -> None:
    options = {"log_every": 8, "ema": 0.9}
    with precision(policy):
        whole, _ = run(tmp_path / "whole", 8, Vanishing(), **options)
        with pytest.raises(KeyboardInterrupt):  # after the checkpoint of step 4
            run(tmp_path / "killed", 8, Vanishing(), stop=5, **options)
        resumed, progress = run(tmp_path / "killed", 8, Vanishing(), **options)
    assert progress.step == 8
    states = [training_state(pipeline) for pipeline in (whole, resumed)]
    assert any("average" in name for name in states[0])
    assert any("dynamic_scale" in name for name in states[0]) == (policy == "mixed_float16")
    found, expected = ({name: np.array(v.numpy()) for name, v in state.items()} for state in states)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.backends
def test_a_step_whose_gradients_overflow_in_float16_is_left_out(tmp_path: Path) -> None:
    with precision("mixed_float16"):
        pipeline, _ = run(tmp_path, 4, Vanishing(), ema=0.9)
    assert type(pipeline.optimizer).__name__ == "LossScaleOptimizer"
    pipeline.optimizer.dynamic_scale.assign(2.0**100)
    kept = [*pipeline.trainable_variables, *pipeline.optimizer.inner_optimizer.averages]
    before = [np.array(variable.numpy()) for variable in kept]
    pipeline.train_on_batch(batch_of(pipeline, Vanishing(), 4))
    assert float(pipeline.optimizer.dynamic_scale) == 2.0**99
    for variable, value in zip(kept, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


# ---- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.backends
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_filler_rows_do_not_count(devices: int) -> None:
    """Three images, of which four devices need a fourth."""
    dataset = Patterns(count=4)
    pipeline = make(dataset, noise=0.0)
    pipeline.compile("sgd")
    batches = list(Loader(dataset, pipeline.encoder, batch_size=8).once(devices))
    assert [len(batch["image"]) for batch in batches] == [-(-3 // devices) * devices]
    expected = ops.convert_to_numpy(pipeline(batch_of(pipeline, dataset, 3))["loss"]).mean()
    assert pipeline.evaluate(batches[0], batch_size=8, verbose=0)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.backends
def test_arrays_are_filled_up_for_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Patterns()
    pipeline = make(dataset, noise=0.0)
    pipeline.compile("sgd")
    batch, weight = batch_of(pipeline, dataset, 6), np.array([1, 0, 2, 0.5, 3, 0], np.float32)
    expected = pipeline.evaluate(batch, sample_weight=weight, batch_size=4, verbose=0)[0]
    rows: list[int] = []
    monkeypatch.setattr("kgen.backend.devices.batch_devices", lambda: 4)
    monkeypatch.setattr(keras.Model, "evaluate", spy(keras.Model.evaluate, rows))
    assert pipeline.evaluate(batch, sample_weight=weight, batch_size=4, verbose=0)[0] == pytest.approx(expected)
    assert rows == [8]


def spy(method: Any, rows: list[int]) -> Any:
    def evaluate(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(x["image"]))
        return method(self, x, *args, **kwargs)

    return evaluate


def test_an_error_is_known_one_batch_ahead() -> None:
    def source() -> Any:
        yield from ({"a": np.array([number])} for number in range(3))
        raise OSError("gone")

    watched = Watched(source())
    batches = iter(watched)
    assert [int(next(batches)["a"][0]) for _ in range(2)] == [0, 1]
    watched.raise_failure(2)
    assert int(next(batches)["a"][0]) == 2
    watched.raise_failure(2)
    with pytest.raises(OSError, match="gone"):
        watched.raise_failure(3)
    assert int(next(batches)["a"][0]) == 2  # repeated, so that no loop fails in the midst of a step


class Slow(Loader):
    """A loader that is slower than the training."""

    SECONDS = 0.05

    def training(self, *, start: int = 0, seed: int = 0) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        for batch in super().training(start=start, seed=seed):
            time.sleep(self.SECONDS)
            yield batch


@pytest.mark.backends
def test_the_time_of_waiting_for_input_is_recorded(whole: Whole, tmp_path: Path) -> None:
    fast = [row for row in read_rows(whole[0] / "metrics.csv") if row["loss"]]
    run(tmp_path, 12, Vanishing(), loader=Slow)
    slow = [row for row in read_rows(tmp_path / "metrics.csv") if row["loss"]]
    assert [int(row["step"]) for row in slow] == [3, 6, 9, 12]
    for row in slow[1:]:  # Keras reads the batches of the first steps before the first step
        assert Slow.SECONDS <= float(row["input_wait"]) <= 4 / float(row["images_per_second"])  # a batch has 4 images
    assert all(0 < float(row["input_wait"]) < Slow.SECONDS for row in fast)


def test_rows_have_the_memory_of_an_accelerator(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "memory" not in read_rows(whole[0] / "metrics.csv")[0]
    for module in ("callbacks", "fit"):
        monkeypatch.setattr(f"kgen.training.{module}.accelerator_memory", lambda: 2.5)
    run(tmp_path, 6, Vanishing())
    rows = read_rows(tmp_path / "metrics.csv")
    assert [row["memory"] for row in rows if row["loss"]] == ["2.5", "2.5"]


# ---- ends ---------------------------------------------------------------------------------------------------------


@pytest.mark.backends
@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_error_in_the_data_passes_unchanged_and_costs_no_step(split: Split, whole: Whole, tmp_path: Path) -> None:
    dataset = Vanishing()
    dataset.missing = (split, 5)
    with pytest.raises(kgen.DataError, match=r"pattern\.png has vanished\nThe checkpoint of step \d is saved"):
        run(tmp_path / "broken", 12, dataset)
    dataset.missing = None
    resumed, progress = run(tmp_path / "broken", 12, dataset)
    assert progress.step == 12
    for one, other in zip(whole[1].trainable_variables, resumed.trainable_variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_exceptions_of_a_dataset_pass_unchanged(tmp_path: Path) -> None:
    dataset = Vanishing()
    dataset.missing, dataset.error = ("train", 5), IndexError("no such row")
    with pytest.raises(IndexError, match="no such row"):
        run(tmp_path, 12, dataset)
    assert Checkpoints(tmp_path / "checkpoints", 1).steps()


@pytest.mark.backends
def test_the_rows_after_a_resume_cover_the_steps_before(whole: Whole, tmp_path: Path) -> None:
    """Rows after 3, 6, 9 and 12 steps; checkpoints after 4 and 8; a validation after 5 and 10."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", 12, Vanishing(), stop=9)
    run(tmp_path / "killed", 12, Vanishing())
    rows = [read_rows(folder / "metrics.csv") for folder in (whole[0], tmp_path / "killed")]
    assert len(rows[0]) == len(rows[1]) > 5
    for one, other in zip(*rows, strict=True):
        for name in ("step", "loss", "noise", "val_loss", "val_noise"):
            assert one[name] == other[name], (name, one, other)


@pytest.mark.backends
def test_a_validation_leaves_the_losses_of_the_training_alone(whole: Whole, tmp_path: Path) -> None:
    run(tmp_path, 12, Vanishing(), validate_every=100)
    found = [read_rows(folder / "metrics.csv") for folder in (whole[0], tmp_path)]
    rows = [[row["loss"] for row in of if row["loss"]] for of in found]
    assert rows[0] == rows[1] and len(rows[0]) == 4


# ---- checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.backends
def test_layers_without_names_can_be_resumed(tmp_path: Path) -> None:
    """Keras numbers them by what the process made before: here, by another model."""
    first, _ = run(tmp_path, 4, Patterns())
    keras.layers.Dense(3), keras.layers.Dense(3).build((1, 1)), keras.Variable(0.0), make(Patterns())
    names = {v.name for v in first.optimizer.variables}
    resumed, progress = run(tmp_path, 8, Patterns())
    assert names != {v.name for v in resumed.optimizer.variables}
    assert progress.step == 8
    keys = sorted(load_file(tmp_path / "checkpoints" / "step-00000008.safetensors"))
    assert any("dense_kernel_momentum" in key for key in keys), keys
    assert keys == sorted(load_file(tmp_path / "checkpoints" / "step-00000004.safetensors"))


@pytest.mark.backends
def test_a_flipped_bit_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, 8, Patterns())
    for path in sorted((tmp_path / "checkpoints").glob("step-*"))[-1:]:
        flip(path)
    with caplog.at_level(logging.WARNING):
        run(tmp_path, 8, Patterns())
    assert "step-00000008.safetensors is damaged" in caplog.text and "checkpoint before it" in caplog.text
    for path in (tmp_path / "checkpoints").glob("step-*"):
        flip(path)
    with pytest.raises(kgen.RunError, match=r"(?s)damaged.*Put a copy of one back.*--restart"):
        run(tmp_path, 8, Patterns())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))


def test_a_flipped_bit_in_a_saved_pipeline_is_found(tmp_path: Path) -> None:
    make(Patterns()).save(tmp_path / "model")
    flip(tmp_path / "model" / "weights.safetensors")
    with pytest.raises(kgen.RunError, match=r"weights\.safetensors is damaged"):
        kgen.load(tmp_path / "model", custom=[Words, Painter])


@pytest.mark.backends
def test_checkpoints_that_are_not_this_trainings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, 4, Patterns())
    folder = tmp_path / "checkpoints"
    (folder / "step-abc.safetensors").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path, 4, Patterns())[1].step == 4
    assert "step-abc.safetensors does not have the name of a checkpoint" in caplog.text
    data = (folder / "step-00000004.safetensors").read_bytes()
    (folder / "step-00000900.safetensors").write_bytes(data)
    with pytest.raises(kgen.RunError, match=r"step-00000900.* beyond the last one, 8"):
        run(tmp_path, 8, Patterns())
    (folder / "step-00000900.safetensors").rename(folder / "step-00000006.safetensors")
    caplog.clear()
    assert run(tmp_path, 8, Patterns())[1].step == 8
    assert "step-00000006.safetensors holds step 4: it was renamed" in caplog.text
