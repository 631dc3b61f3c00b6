"""Loggers: what they are told, that one which fails harms nobody, and what TensorBoard shows after a resume."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import GOOD, TOY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import kgen as kgen_package
from kgen.config import ComponentConfig
from kgen.config.changes import changes
from kgen.errors import HookWarning
from kgen.plugins.discovery import registry
from kgen.training.journal import Journal
from kgen.training.loggers import Loggers, opened_loggers
from kgen.training.tensorboard import TensorBoard

pytestmark = pytest.mark.portable


class Told(kgen_package.Logger):
    """Keeps what it is told, and fails in one method."""

    def __init__(self, *, fails: str = "") -> None:
        super().__init__()
        self.fails = fails
        self.told: list[Any] = []

    def tell(self, *what: Any) -> None:
        self.told.append(what)
        if what[0] == self.fails:
            raise LookupError("gone")

    def begin(self, config: Mapping[str, Any]) -> None:
        self.tell("begin", config)

    def resume(self, stage: str, step: int) -> None:
        self.tell("resume", stage, step)

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self.tell("log", stage, step, dict(values))
        values.clear()  # type: ignore[attr-defined]  # harms nobody else

    def image(self, stage: str, step: int, name: str, image: np.ndarray) -> None:
        self.tell("image", stage, step, name, image.shape)

    def end(self, scores: Mapping[str, Mapping[str, float]] | None) -> None:
        self.tell("end", scores)


@pytest.mark.parametrize("method", ["begin", "resume", "log", "image", "end"])
def test_a_failing_logger_gives_a_warning_and_is_not_called_again(method: str, tmp_path: Path) -> None:
    bad, good = Told(fails=method), Told()
    loggers = Loggers([bad, good])
    with pytest.warns(HookWarning) as caught:
        loggers.begin({"name": "x"})
        journal = Journal(tmp_path, ["loss"], 0, None, loggers, "decoder")
        journal.write(1, {"loss": 0.5})
        journal.image(1, "samples", np.zeros((4, 5, 3), np.uint8))
        loggers.scores = {"train": {"a": 1.0}}
        loggers.end()
    assert [what[0] for what in good.told] == ["begin", "resume", "log", "image", "end"]
    assert good.told[1:4] == [
        ("resume", "decoder", 0),
        ("log", "decoder", 1, {"loss": 0.5}),
        ("image", "decoder", 1, "samples", (4, 5, 3)),
    ]
    assert good.told[4] == ("end", {"train": {"a": 1.0}})
    assert bad.told[-1][0] == method
    assert [str(warning.message) for warning in caught] == [
        f"{Told.__module__}:Told (which no plugin registers) failed in {method}: LookupError: gone; the run continues "
        "without this logger"
    ]


def test_a_failed_run_ends_its_loggers_without_scores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = Told()
    monkeypatch.setattr("kgen.training.loggers.make_logger", lambda *_: told)
    with pytest.raises(ZeroDivisionError), opened_loggers([ComponentConfig(name="x")], tmp_path, {"name": "x"}):
        raise ZeroDivisionError
    assert told.told == [("begin", {"name": "x"}), ("end", None)]


# ---- TensorBoard -------------------------------------------------------------------------------------------------


def test_tensorboard_shows_resumed_steps_once(tmp_path: Path) -> None:
    for start, end, loss in ((0, 6, 1.0), (3, 8, 2.0)):  # killed after step 6, of which the checkpoint is of step 3
        loggers = Loggers([TensorBoard(tmp_path)])
        journal = Journal(tmp_path, ["loss"], start, None, loggers)
        for step in range(start + 1, end + 1):
            journal.write(step, {"loss": loss})
        image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
        journal.image(end, "samples", image)
        loggers.end()
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert [(event.step, event.value) for event in shown.Scalars("loss")] == [
        *((step, 1.0) for step in range(1, 4)),
        *((step, 2.0) for step in range(4, 9)),
    ]
    [event] = shown.Images("samples")
    assert (event.step, event.width, event.height) == (8, 5, 4)
    import io

    from PIL import Image

    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(event.encoded_image_string))), image)


def test_the_decoder_stage_has_a_separate_folder(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    for stage in ("decoder", "generator"):
        board.resume(stage, 0)
        board.log(stage, 1, {"loss": 1.0})
        board.image(stage, 1, "gray", np.zeros((2, 3, 1), np.uint8))
    board.end(None)
    assert all(any((tmp_path / folder).iterdir()) for folder in ("tensorboard", "decoder/tensorboard"))


# ---- runs --------------------------------------------------------------------------------------------------------

SOURCE = """
import kgen
from pathlib import Path

class Breaks(kgen.Logger):
    def log(self, stage, step, values):
        raise LookupError("no room")

class Remote(kgen.Logger):
    remote = True

    def __init__(self, directory, *, missing: bool = False):
        super().__init__()
        self.directory, self.missing = directory, missing

    def check(self):
        if self.missing:
            raise kgen.PluginError("the package x is missing: pip install x")

    def begin(self, config):
        Path("sent").touch()

    def log(self, stage, step, values): ...

class Nothing(kgen.Logger): ...

@kgen.hookimpl
def kgen_components(registry):
    for name in ("breaks", "remote", "nothing"):
        registry.logger(name, f"{__name__}:{name.capitalize()}", summary="")
"""


@pytest.fixture
def where(site, tmp_path: Path) -> Iterator[dict[str, Any]]:
    site.install("telling", SOURCE)
    registry.cache_clear()
    yield {"cwd": tmp_path, "PYTHONPATH": f"{site.path}:{TOY}"}
    registry.cache_clear()


def config(folder: Path, *loggers: object) -> Path:
    (folder / "run.yaml").write_text(yaml.safe_dump({**yaml.safe_load(GOOD), "loggers": list(loggers)}))
    return folder / "run.yaml"


@pytest.mark.parametrize(
    "loggers, message",
    [
        (["breaks"], "logger 'telling/breaks' of kgen-plugin-telling 0.5 failed ("),
        ([{"name": "remote", "missing": True}], "the package x is missing: pip install x"),
        (["nothing"], "logger 'telling/nothing' of kgen-plugin-telling 0.5"),
        (["tensorboard", "kgen/tensorboard"], "loggers[1]: 'kgen/tensorboard' is given twice: keep one"),
        (
            [{"name": "tensorboard", "folder": "x"}],
            "loggers[0].folder: unknown key (kgen/tensorboard takes: no options)",
        ),
        (["wandb2"], "loggers[0]: unknown logger 'wandb2'"),
    ],
)
def test_a_logger_that_cannot_be_used_is_refused_before_the_training(
    kgen, where, tmp_path: Path, loggers: list[object], message: str
) -> None:
    done = kgen("check", config(tmp_path, *loggers), **where)
    assert done.status in (1, 2) and message in done.err and "Traceback" not in done.err, done


def test_a_remote_logger_is_not_tried_and_loggers_may_change(kgen, where, tmp_path: Path) -> None:
    assert kgen("check", config(tmp_path, "remote"), **where).status == 0
    assert not (tmp_path / "sent").exists()
    assert kgen("run", config(tmp_path, "remote"), **where).status == 0
    assert (tmp_path / "sent").exists() and not (tmp_path / "runs" / "run" / "tensorboard").exists()
    (tmp_path / "sent").unlink()
    again = kgen("run", config(tmp_path), **where)
    assert again.status == 0 and not (tmp_path / "sent").exists(), "the training does not begin again"
    manifest = json.loads((tmp_path / "runs" / "run" / "manifest.json").read_text())
    assert manifest["step"] == 6 and manifest["loggers"] == []


def test_loggers_change_nothing_in_the_training() -> None:
    [change] = changes({"loggers": [{"name": "a"}]}, {"loggers": []})
    assert not change.affects_training and change.allowed
    [change] = changes({"fit": {"callbacks": [{"name": "a"}]}}, {"fit": {"callbacks": []}})
    assert change.affects_training and not change.allowed
