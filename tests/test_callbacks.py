"""Callbacks of plugins in a training: what they are told, what they may do, and which are not taken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import GOOD, TOY
from parts import Patterns
from test_training import run

from kgen.config import ComponentConfig, RunConfig
from kgen.contracts.callback import INSTEAD
from kgen.errors import ComponentError, ConfigError, PluginError
from kgen.plugins.discovery import registry
from kgen.plugins.fit import wrong_arguments
from kgen.training.checkpoint import Checkpoints

SOURCE = """
import keras
import kgen

class Watcher(keras.callbacks.Callback):
    def __init__(self, directory, *, stop_at: int = -1, fail_at: int = -1, halve_at: int = -1):
        super().__init__()
        self.file = directory / "watched.txt"
        self.stop_at, self.fail_at, self.halve_at = stop_at, fail_at, halve_at

    def tell(self, *words):
        with self.file.open("a") as file:
            print(*words, file=file)

    def on_train_begin(self, logs=None):
        self.tell("begin", self.params["steps"])

    def on_train_batch_begin(self, batch, logs=None):
        self.tell("<", batch)

    def on_train_batch_end(self, batch, logs=None):
        first = self.model.trainable_variables[0]
        self.tell(">", batch, ",".join(sorted(logs)), float(keras.ops.sum(first)))
        if batch == self.fail_at:
            raise KeyError("lost")
        if batch == self.halve_at:
            first.assign(0.5 * keras.ops.convert_to_tensor(first))
        if batch == self.stop_at:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.tell("end")

class Saver(keras.callbacks.ModelCheckpoint):
    def __init__(self):
        super().__init__("x.keras")

class Old(keras.callbacks.Callback):
    def __init__(self, every=1): ...

@kgen.hookimpl
def kgen_components(registry):
    for name in ("watcher", "saver", "old"):
        registry.callback(name, f"{__name__}:{name.capitalize()}", summary="")
"""


@pytest.fixture(autouse=True)
def plugin(site) -> Iterator[None]:
    site.install("seeing", SOURCE)
    registry.cache_clear()
    yield
    registry.cache_clear()


def watcher(**options: int) -> tuple[ComponentConfig, ...]:
    return (ComponentConfig(name="watcher", options=options),)


def watched(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "watched.txt").read_text().splitlines()]


def test_steps_are_counted_from_the_beginning_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 12, Patterns(), stop=6, callbacks=watcher())
    run(tmp_path, 12, Patterns(), callbacks=watcher())
    told = watched(tmp_path)
    begun = [number for number, words in enumerate(told) if words[0] == "begin"]
    assert [told[number] for number in begun] == [["begin", "12"]] * 2
    for sign in "<>":
        first = [int(words[1]) for words in told[: begun[1]] if words[0] == sign]
        second = [int(words[1]) for words in told[begun[1] :] if words[0] == sign]
        assert first == list(range(6)) and second == list(range(4, 12)), "the checkpoint is of step 4"
    assert told[-1] == ["end"]
    assert {words[2] for words in told if words[0] == ">"} == {"loss,noise"}


@pytest.mark.backends
def test_the_variables_are_up_to_date_and_what_a_callback_changes_is_kept(tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "plain", 5, Patterns(), callbacks=watcher())
    sums = [float(words[-1]) for words in watched(tmp_path / "plain") if words[0] == ">"]
    assert len(set(sums)) == 5, "the weights change with each step"
    first = plain.trainable_variables[0]
    assert sums[-1] == pytest.approx(float(np.asarray(first.numpy()).sum()), rel=1e-5)
    run(tmp_path / "halved", 5, Patterns(), callbacks=watcher(halve_at=2))
    changed = [float(words[-1]) for words in watched(tmp_path / "halved") if words[0] == ">"]
    assert changed[:3] == sums[:3] and abs(changed[3] - sums[2] / 2) < abs(changed[3] - sums[2])


def test_a_callback_can_end_the_training(tmp_path: Path) -> None:
    pipeline, progress = run(tmp_path, 12, Patterns(), callbacks=watcher(stop_at=6))
    assert (progress.step, progress.interrupted) == (7, False)
    assert Checkpoints(tmp_path / "checkpoints", 9).steps()[-1] == 7
    assert int(pipeline.optimizer.iterations.numpy()) == 7


def test_a_callback_that_fails_is_named_and_costs_no_step(tmp_path: Path) -> None:
    message = r"callback 'seeing/watcher' of kgen-plugin-seeing 0.5 failed \(.*\): KeyError: 'lost'"
    with pytest.raises(ComponentError, match=message):
        run(tmp_path, 12, Patterns(), callbacks=watcher(fail_at=5))
    assert Checkpoints(tmp_path / "checkpoints", 9).steps()[-1] == 6


@pytest.mark.slow
def test_a_run_that_a_callback_ended_is_finished(kgen, tmp_path: Path, site) -> None:
    data = yaml.safe_load(GOOD)
    data["fit"] |= {"callbacks": [{"name": "watcher", "stop_at": 3}], "steps": 20}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    where = {"cwd": tmp_path, "PYTHONPATH": f"{site.path}:{TOY}"}
    done = kgen("run", "run.yaml", **where)
    assert done.status == 0 and "a callback ended the training at step 4 of 20\n" in done.out, done
    directory = tmp_path / "runs" / "run"
    assert json.loads((directory / "manifest.json").read_text())["step"] == 4
    before = watched(directory)
    assert kgen("run", "run.yaml", **where).status == 0 and watched(directory) == before, "it is done"
    assert kgen("evaluate", directory, **where).status == 0
    (directory / "report.html").unlink()
    assert kgen("run", "run.yaml", **where).status == 0 and watched(directory) == before, "only the end is done again"
    more = kgen("run", "run.yaml", "--set", "fit.steps=24", **where)
    assert more.status == 0, more
    assert json.loads((directory / "manifest.json").read_text())["step"] == 24
    assert [int(words[1]) for words in watched(directory)[len(before) :] if words[0] == ">"] == list(range(4, 24))


# ---- which are taken ---------------------------------------------------------------------------------------------


def fit(*callbacks: object) -> dict[str, object]:
    with_callbacks = {"steps": 1, "callbacks": list(callbacks)}
    return {"data": "shapes", "encoder": "text/bag", "generator": "diffusion", "fit": with_callbacks}


@pytest.mark.parametrize("name", ["ModelCheckpoint", "model-checkpoint", "keras/model_checkpoint"])
def test_callbacks_of_keras_that_duplicate_kgen_are_refused_with_advice(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict(fit(name))
    assert str(caught.value) == (
        "configuration: fit.callbacks[0]: kgen does not accept Keras's ModelCheckpoint: a run writes checkpoints "
        "itself (fit.checkpoint_every, fit.keep)"
    )


@pytest.mark.parametrize(
    "callback, message",
    [
        ("seeing/saver", "fit.callbacks[0]: callback 'seeing/saver' is a subclass of Keras's ModelCheckpoint, which"),
        ("seeing/old", "Old has an argument 'every' before the '*', where kgen supplies 'directory' alone: options"),
        ("watchr", "fit.callbacks[0]: unknown callback 'watchr': did you mean 'watcher'"),
        ({"name": "watcher", "stop_at": "3"}, "fit.callbacks[0].stop_at: must be a whole number, got '3'"),
        ({"stop_at": 3}, "fit.callbacks[0]: needs 'name', one of 'seeing/old', 'seeing/saver', 'seeing/watcher'"),
    ],
)
def test_a_callback_that_cannot_be_used_is_refused(callback: object, message: str) -> None:
    with pytest.raises((ConfigError, PluginError)) as caught:
        RunConfig.from_dict(fit(callback))
    assert message in str(caught.value)


def test_every_class_of_keras_in_the_table_exists() -> None:
    import keras

    for name in INSTEAD:
        assert issubclass(getattr(keras.callbacks, name), keras.callbacks.Callback)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ("self", ""),
        ("self, directory", ""),
        ("self, directory, *, every=1, **more", ""),
        ("self, *, every=1", ""),
        ("self, *, directory", "can have no option named 'directory': kgen supplies it: put it before the '*'"),
        ("self, *, name='x'", "can have no option named 'name': its own name stands there"),
        ("self, directory, every", "has an argument 'every' before the '*'"),
    ],
)
def test_arguments_of_constructors(arguments: str, reason: str) -> None:
    found: dict[str, type] = {}
    exec(f"class A:\n    def __init__({arguments}): ...", found)
    assert wrong_arguments(found["A"], "directory").startswith(reason)
    assert bool(wrong_arguments(found["A"], "directory")) == bool(reason)
