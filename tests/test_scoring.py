"""The images of a run for its grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from command_line import GOOD
from gaussian import Gaussian
from parts import Painter, Patterns, Words

import kgen
from kgen.config import RunConfig
from kgen.contracts.dataset import Dataset, Split
from kgen.evaluation import plan, scoring
from kgen.experiments.experiment import Experiment
from kgen.experiments.prompts import Prompts, Written, prompts_to_generate, spread


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
    inputs = prompts_to_generate(config, Patterns(), Words()).inputs
    assert len(set(inputs)) == 16 and inputs[-1] == "pattern 23"  # 15 of 23, and the one that is held out


class Validated(Patterns):
    """7 of the images are a validation split."""

    def captions(self, split: Split) -> list[str]:
        return super().captions("train")[:7] if split == "validation" else super().captions(split)

    def image(self, split: Split, index: int) -> np.ndarray:
        return super().image("train" if split == "validation" else split, index)


class Kept(kgen.Metric):
    """Keeps the images of each batch."""

    def start(self, dataset: Dataset, split: Split) -> None:
        super().start(dataset, split)
        if split == "train":
            self.batches: list[kgen.GeneratedImages] = []

    def update(self, batch: kgen.GeneratedImages) -> None:
        if self.split == "train":
            self.batches.append(batch)

    def compute(self) -> dict[str, float]:
        return {}


@pytest.mark.parametrize(("prompts", "copies", "portions"), [(7, 1, 4), (1, 9, 5), (3, 5, 8), (2, 1, 1)])
def test_images_are_generated_in_portions_and_are_those_of_one_call(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, prompts: int, copies: int, portions: int
) -> None:
    """Both of many prompts, and of many images per prompt."""
    pipeline, dataset = painter()
    evaluation = config.evaluate.model_copy(
        update={"samples_per_prompt": copies, "max_prompts": prompts, "batch_size": 1}
    )
    kept = Kept()
    config = config.model_copy(update={"evaluate": evaluation})
    scoring.score_generated(Experiment(config, dataset, {}, {"kept": kept}), pipeline, {})
    assert [len(batch.images) <= 2 for batch in kept.batches] == [True] * portions
    chosen = spread(dataset.prompts("train"), prompts)
    made = {
        prompt: np.stack(
            [i for b in kept.batches for i, text in zip(b.images, b.prompts, strict=True) if text == prompt]
        )
        for prompt in chosen
    }
    whole = pipeline.generate(chosen, n=copies, batch_size=1)
    np.testing.assert_array_equal(np.concatenate(list(made.values())), whole)
    assert len(np.unique(whole, axis=0)) == prompts * copies


def test_equal_prompts_in_several_portions_have_different_images(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal prompts occur, for example, with an encoder of labels, because several captions share a label."""
    pipeline, dataset = painter()
    inputs = ["pattern 1", "pattern 2", "pattern 1", "pattern 1", "pattern 2"]
    prompts = Prompts(inputs, list("abcde"), Written(inputs))
    monkeypatch.setattr(plan, "prompts_to_score", lambda *arguments: prompts)
    kept = Kept()
    evaluation = config.evaluate.model_copy(update={"samples_per_prompt": 2, "batch_size": 1})
    config = config.model_copy(update={"evaluate": evaluation})
    scoring.score_generated(Experiment(config, dataset, {}, {"kept": kept}), pipeline, {})
    made = np.concatenate([batch.images for batch in kept.batches])
    assert len(kept.batches) == 5 and [text for batch in kept.batches for text in batch.prompts] == list("aabbccddee")
    np.testing.assert_array_equal(made, pipeline.generate(inputs, n=2, batch_size=1))
    assert len(np.unique(made, axis=0)) == 10
    with pytest.raises(kgen.ConfigError, match="2 numbers as first, but 1 prompts"):
        pipeline.generate("pattern 1", first=[0, 1])


def test_the_numbering_of_images_continues(config: RunConfig) -> None:
    pipeline, _ = painter()
    for shared in (False, True):
        many = pipeline.generate(["pattern 1", "pattern 2"], n=5, shared_noise=shared)
        last = pipeline.generate(["pattern 1", "pattern 2"], n=2, first=3, shared_noise=shared)
        np.testing.assert_array_equal(last, many[[3, 4, 8, 9]])
    with pytest.raises(kgen.ConfigError, match="first must be a whole number, 0 or more"):
        pipeline.generate("pattern 1", first=-1)


def test_the_likelihood_is_measured_in_portions(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Validated()
    encoder = Words()
    encoder.adapt(dataset.captions("train"))
    generator = Gaussian(dataset.image_space, encoder.condition_space)
    pipeline = kgen.assemble(encoder=encoder, generator=generator, decoder="identity", dataset=dataset)
    likelihood = config.evaluate.likelihood.model_copy(update={"images": 7})
    evaluation = config.evaluate.model_copy(update={"metrics": (), "likelihood": likelihood, "batch_size": 2})
    config = config.model_copy(update={"evaluate": evaluation})
    experiment = Experiment(config, dataset, {}, {})
    monkeypatch.setattr(scoring, "BATCHES_PER_PORTION", 4)
    (whole,) = scoring.score(experiment, pipeline)
    monkeypatch.setattr(scoring, "BATCHES_PER_PORTION", 2)
    portions: list[int] = []
    measured = type(pipeline).log_likelihood

    def watched(self: kgen.Pipeline, images: np.ndarray, *given: Any, **options: Any) -> np.ndarray:
        portions.append(len(images))
        return measured(self, images, *given, **options)

    monkeypatch.setattr(type(pipeline), "log_likelihood", watched)
    (result,) = scoring.score(experiment, pipeline)
    assert result.mean == pytest.approx(whole.mean, rel=1e-6)
    assert result.label == "bits per dimension" and result.split == "validation" and portions == [3, 4]


def painter() -> tuple[kgen.Pipeline, Patterns]:
    dataset = Patterns()
    encoder = Words()
    encoder.adapt(dataset.captions("train"))
    generator = Painter(dataset.image_space, encoder.condition_space)
    return kgen.assemble(encoder=encoder, generator=generator, decoder="identity", dataset=dataset), dataset
