"""When a training ends, also after a resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kgen_plugin_yourname.plateau import StopAtPlateau


def train(directory: Path, losses: list[float], first: int = 0, **options: Any) -> int:
    """Gives losses to a new callback, as a training does. Returns the step at which the training ends."""
    callback = StopAtPlateau(directory, every=2, **options)
    callback.set_model(SimpleNamespace(stop_training=False))
    callback.on_train_begin()
    for batch, loss in enumerate(losses, first):
        callback.on_train_batch_end(batch, {"loss": loss})
        if callback.model.stop_training:
            return batch + 1
    return first + len(losses)


def test_a_falling_loss_does_not_end_the_training(tmp_path: Path) -> None:
    assert train(tmp_path, [1 / (step + 1) for step in range(40)], patience=2) == 40


def test_the_training_ends_after_the_patience(tmp_path: Path) -> None:
    losses = [5.0, 4.0, 9.0, 3.0, 9.0, 3.5, 9.0, 3.0, 9.0, 3.2, 9.0, 1.0]  # steps 2, 4, ... count: 4, 3, 3.5, 3, 3.2
    assert train(tmp_path, losses, patience=3) == 10


def test_a_small_improvement_does_not_count(tmp_path: Path) -> None:
    losses = [0.0, 4.0, 0.0, 3.99, 0.0, 3.98, 0.0, 3.97]
    for name, least, end in (("one", 0.1, 6), ("other", 0.001, 8)):
        (tmp_path / name).mkdir()
        assert train(tmp_path / name, losses, patience=2, min_improvement=least) == end


def test_a_resumed_training_continues_the_count(tmp_path: Path) -> None:
    flat = [1.0] * 20
    assert train(tmp_path, flat[:5], patience=4) == 5  # looks at steps 2 and 4
    assert train(tmp_path, flat[4:], first=4, patience=4) == 10
    assert train(tmp_path, flat[2:], first=2, patience=4) == 10, "steps after the resumed one do not count"
