"""Quality over time: which numbers of steps are measured, which are left out, and what is timed."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from typing import Annotated, Any

import numpy as np
import pytest
import yaml
from command_line import GOOD
from keras import ops
from parts import Painter, Words
from pydantic import Field

import kgen
from kgen.comparison.steps import Measurement, long_table, measure_steps, plots, seconds_per_image, wide_table
from kgen.config import RunConfig

pytestmark = pytest.mark.portable

SPACE = kgen.Space("continuous", (8, 8, 3))


class Brighter(Painter):
    """Paints everything as bright as the steps that it takes, up to 4 of them; it dislikes 3."""

    def noise_spec(self, *, steps: int = 1, **options: Any) -> Any:
        if steps == 3:
            raise ValueError("3 is a crowd")
        return super().noise_spec(**options)

    def generate(
        self,
        condition: Any,
        null_condition: Any,
        noise: Any,
        *,
        steps: Annotated[kgen.Steps, Field(le=4)] = 1,
        half: bool = False,
    ) -> Any:
        return ops.zeros_like(noise["z"]) + (steps / (5.0 if half else 2.5) - 1.0)


def pipeline(generator: type[Painter]) -> kgen.Pipeline:
    encoder = Words()
    encoder.adapt(["red", "green"])
    return kgen.assemble(
        encoder=encoder,
        generator=generator(SPACE, encoder.condition_space),
        decoder="identity",
        image_space=SPACE,
        captions=["red", "green"],
    )


@pytest.fixture
def config(toy: None) -> RunConfig:
    return RunConfig.from_dict(yaml.safe_load(GOOD))


def test_each_number_of_steps_is_sampled_once_and_scored(config: RunConfig) -> None:
    logged: list[str] = []
    made = measure_steps("bright", pipeline(Brighter), config, [4, 1, 2, 2], logged.append)
    assert [(one.run, one.steps) for one in made.measured] == [("bright", 1), ("bright", 2), ("bright", 4)]
    for one in made.measured:
        assert one.scores == {
            "brightness mean": pytest.approx(one.steps / 5),
            "brightness mean (holdout)": pytest.approx(one.steps / 5),
        }
        assert 0 < one.seconds < 1
    assert len(logged) == 3 and not made.notes


def test_the_runs_other_options_stay(config: RunConfig) -> None:
    sample = config.sample.model_copy(update={"options": {"steps": 4, "half": True}})
    made = measure_steps(
        "dim", pipeline(Brighter), config.model_copy(update={"sample": sample}), [2], lambda text: None
    )
    assert made.measured[0].scores["brightness mean"] == pytest.approx(0.2)


def test_steps_that_the_generator_refuses_are_noted(config: RunConfig) -> None:
    made = measure_steps("bright", pipeline(Brighter), config, [2, 3, 9], lambda text: None)
    assert [one.steps for one in made.measured] == [2]
    few, many = made.notes
    assert "bright was not sampled in 3 steps" in few and "3 is a crowd" in few
    assert "bright was not sampled in 9 steps" in many and "less than or equal to 4" in many


def test_without_steps_one_measurement_is_made(config: RunConfig) -> None:
    (one,) = measure_steps("still", pipeline(Painter), config, [1, 2], lambda text: None).measured
    assert one.steps is None and set(one.scores) == {"brightness mean", "brightness mean (holdout)"}


def test_compiling_is_not_timed() -> None:
    class Slow:
        calls = 0
        encoder = Words()

        def generate(self, prompts: list[str], *, n: int, batch_size: int, steps: int) -> None:
            assert n == batch_size == 32 and steps == 7
            self.calls += 1
            time.sleep(0.5 if self.calls == 1 else 0.032)

    assert 0.001 <= seconds_per_image(Slow(), {"steps": 7}) < 0.01  # type: ignore[arg-type]


MEASURED = [
    Measurement("all", 1, 0.01, {"retrieval R@1": 0.25}),
    Measurement("all", 8, 0.08, {"retrieval R@1": 0.75}),
    Measurement("one", None, 0.64, {"retrieval R@1": 0.8, "other": 1 / 3}),
]


def test_tables_and_plots() -> None:
    head, rows = wide_table(MEASURED)
    assert head == ["run", "steps", "seconds per image", "retrieval R@1", "other"]
    assert rows[0] == ["all", "1", "0.01", "0.250", ""] and rows[2] == ["one", "", "0.64", "0.800", "0.333"]
    assert long_table(MEASURED)[1][-1] == ["one", "", "0.64", "other", "0.333333"] and len(long_table(MEASURED)[1]) == 4
    svgs = plots(MEASURED)
    assert list(svgs) == ["retrieval R@1", "other"]
    for metric, marks, texts in (("retrieval R@1", [2, 1], ["all", "one", "1", "8"]), ("other", [1], ["one"])):
        root = ElementTree.fromstring(svgs[metric])
        lines = root.findall(".//{*}g[@id='axes_1']/{*}g")
        found = [len(line.findall(".//{*}use")) for line in lines if line.attrib["id"].startswith("line2d")]
        assert found == marks
        shown = [text.strip() for text in root.itertext()]
        assert {*texts, metric, f"{metric} over seconds per image (numbers: steps)"} <= set(shown)


def test_incompatible_options_are_an_error_of_the_user(config: RunConfig) -> None:
    with pytest.raises(kgen.ConfigError, match="options of Brighter: 3 is a crowd"):
        pipeline(Brighter).generate("red", steps=3)
    assert np.asarray(pipeline(Brighter).generate("red", steps=2)).mean() == 102
