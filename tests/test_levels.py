"""The loss by level and the gradient's norm in the journal, and their plots in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_training
from keras import ops
from parts import Painter, Patterns
from test_training import run

import kgen
from kgen.pipeline.levels import LossCurve, read_columns
from kgen.reporting.page import Figure
from kgen.runs.outputs import try_losses
from kgen.runs.report import _details
from kgen.training.journal import read_rows

EXACT = ("step", "loss", "gradient_norm", "loss_brightness_-1..0", "loss_brightness_0..1")


class Bright(Painter):
    """Its level is the brightness of an image."""

    loss_axis = kgen.LossAxis("brightness", -1.0, 1.0, parts=2)

    def __init__(self, space: kgen.Space, condition_space: kgen.ConditionSpace, **kwargs: Any) -> None:
        super().__init__(space, condition_space, noise=0.0, **kwargs)

    def compute_losses(self, x: Any, condition: dict[str, Any], training: bool) -> dict[str, Any]:
        losses = super().compute_losses(x, condition, training)
        kgen.record_levels(ops.mean(x, axis=(1, 2, 3)), losses["loss"])
        return losses


class Plain(Patterns):
    """Eight images of one gray each for the training, and one that is held out."""

    def __init__(self) -> None:
        super().__init__(count=9)
        self._images[:] = np.arange(0, 9)[:, None, None, None] * 28


@pytest.mark.backends
def test_the_journal_has_the_mean_loss_of_each_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_training, "Painter", Bright)
    fit = {"learning_rate": 1e-9, "log_every": 2, "checkpoint_every": 3}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", 6, Plain(), stop=4, **fit)
    pipeline, _ = run(tmp_path / "killed", 6, Plain(), **fit)  # from step 3, in the middle of a row
    run(tmp_path / "whole", 6, Plain(), **fit, gradient_accumulation=2)
    rows, others = (
        [row for row in read_rows(tmp_path / name / "metrics.csv") if row["loss"]] for name in ("killed", "whole")
    )
    batch = test_training.batch_of(pipeline, Plain(), 8)
    losses = ops.convert_to_numpy(pipeline(batch)["loss"])
    level = batch["image"].mean((1, 2, 3)) / 127.5 - 1.0
    for row, other in zip(rows, others, strict=True):  # two steps are a pass over the images
        for name, there in (("loss_brightness_-1..0", level < 0), ("loss_brightness_0..1", level >= 0)):
            assert float(row[name]) == pytest.approx(losses[there].mean(), rel=1e-5)
        for name in EXACT:
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-4), name
        assert float(row["gradient_norm"]) > 0


@pytest.mark.portable
def test_a_curve_counts_every_loss_by_its_weight_in_the_part_of_its_level() -> None:
    curve = LossCurve(kgen.LossAxis("t", 0.0, 1.0, parts=4))
    levels = np.array([[0.0, 0.249, 0.25], [1.0, -3.0, 0.8]], np.float32)
    losses = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    curve.update_state(
        [(ops.convert_to_tensor(levels), ops.convert_to_tensor(losses))], np.array([1.0, 3.0], np.float32)
    )
    curve.update_state([(ops.convert_to_tensor([0.26]), ops.convert_to_tensor([7.0]))])
    assert curve.means() == pytest.approx(
        {"loss_t_0..0.25": (1 + 2 + 3 * 5) / 5, "loss_t_0.25..0.5": 5.0, "loss_t_0.75..1": 5.0}
    )
    assert read_columns(["step", "loss", *curve.axis.columns()[:2]]) == {
        "t": {"loss_t_0..0.25": (0.0, 0.25), "loss_t_0.25..0.5": (0.25, 0.5)}
    }
    curve.reset_state()
    assert curve.means() == {}


@pytest.mark.portable
@pytest.mark.parametrize(("name", "low", "parts"), [("log snr", 0.0, 2), ("t", 1.0, 2), ("t", 0.0, 0)])
def test_an_axis_is_checked(name: str, low: float, parts: int) -> None:
    with pytest.raises(ValueError, match=r"letters, digits|needs a range"):
        kgen.LossAxis(name, low, 1.0, parts)


@pytest.mark.portable
def test_checkpoints_from_before_the_curve_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, 4, Plain())
    monkeypatch.setattr(test_training, "Painter", Bright)
    _, progress = run(tmp_path, 8, Plain())
    assert progress.step == 8
    assert [bool(row["loss_brightness_0..1"]) for row in read_rows(tmp_path / "metrics.csv") if row["loss"]][-1]


@pytest.mark.portable
def test_wrong_levels_are_found_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Painter):
        loss_axis = Bright.loss_axis

    class Odd(Painter):
        loss_axis = Bright.loss_axis

        def compute_losses(self, x: Any, condition: dict[str, Any], training: bool) -> dict[str, Any]:
            kgen.record_levels(0.0, ops.ones((3, 2)))
            return super().compute_losses(x, condition, training)

    for cls, message in ((Silent, "does not call kgen.record_levels"), (Odd, r"\(3, 2\) for 2 examples")):
        monkeypatch.setattr(test_training, "Painter", cls)
        generator = test_training.make(Plain()).generator
        with pytest.raises(kgen.PluginError, match=message):
            try_losses(generator, ops.zeros((2, 8, 8, 3)), {"pooled": ops.zeros((2, 8))})


@pytest.mark.portable
def test_the_report_plots_the_loss_by_level(monkeypatch: pytest.MonkeyPatch) -> None:
    plots: list[Any] = []

    def plot(lines: Any, x: str, y: str) -> str:
        plots.append((x, y, {line.name: list(line.points) for line in lines}))
        return ""

    monkeypatch.setattr("kgen.runs.report.line_plot", plot)
    rows = [
        {"step": f"{step}", "loss": "1", "gradient_norm": f"{step}", "loss_t_0..0.5": "2", "loss_t_0.5..1": last}
        for step, last in ((10, ""), (20, "4"), (30, "6"), (40, "8"))
    ]
    figures = _details(rows)
    assert all(isinstance(figure, Figure) for figure in figures)
    assert plots[0] == (
        "t in [0, 1]",
        "loss",
        {
            "steps 1 to 10": [(0.25, 2.0)],
            "steps 11 to 20": [(0.25, 2.0), (0.75, 4.0)],
            "steps 21 to 40": [(0.25, 2.0), (0.75, 7.0)],
        },
    )
    assert [plot[:2] for plot in plots[1:]] == [("step", "gradient norm")]
    plots.clear()
    _details(rows[1:2])
    assert plots[0][2] == {"steps 1 to 20": [(0.25, 2.0), (0.75, 4.0)]}
    assert _details([]) == []
