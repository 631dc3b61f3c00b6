"""What a run draws for its grids."""

from __future__ import annotations

import pytest
import yaml
from command_line import GOOD
from parts import Patterns, Words

from kgen.config import RunConfig
from kgen.contracts.dataset import Split
from kgen.runs.prompts import prompts_to_generate


class Faces(Patterns):
    """Images that all have one caption, as in an unconditional run."""

    def captions(self, split: Split) -> list[str]:
        return ["a face" for _ in super().captions(split)]


@pytest.fixture
def config(toy: None) -> RunConfig:
    return RunConfig.from_dict(yaml.safe_load(GOOD))


def test_the_single_caption_of_a_dataset_fills_the_grid(config: RunConfig) -> None:
    """The copies are counted on, so that `generate` makes 16 different images of them."""
    assert prompts_to_generate(config, Faces(), Words()).inputs == ["a face"] * 16
    drawn = prompts_to_generate(config, Patterns(), Words()).inputs
    assert len(set(drawn)) == 16 and drawn[-1] == "pattern 23"  # 15 of 23, and the one that is held out
