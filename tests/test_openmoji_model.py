"""The model of emoji that is installed with kgen: it draws at once, on every backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kgen_plugin_openmoji.dataset import OpenMoji

import kgen
from kgen.errors import UnreadTextWarning

FOLDER = Path(__file__).parents[1] / "models" / "kgen-model-openmoji" / "kgen_model_openmoji" / "openmoji"


def is_red(image: np.ndarray) -> np.ndarray:
    """Where an image is red: (H, W, 3) -> (H, W)."""
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    return (red > 150) & (green < 120) & (blue < 120)


@pytest.mark.backends
def test_it_draws_a_red_heart_and_knows_its_name_with_an_article() -> None:
    heart = is_red(OpenMoji(size=64, match=("^red heart$",)).image("train", 0))
    pipeline = kgen.load(FOLDER)
    with pytest.warns(UnreadTextWarning, match="'a' was not learned"):
        images = pipeline.generate(["red heart", "a red heart"], steps=6)
    for image in images:
        found = is_red(image)
        assert found[heart].mean() > 0.8 and found[~heart].mean() < 0.1
