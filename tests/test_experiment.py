"""A run opens its data and makes its parts once, and tries them without a trace."""

from __future__ import annotations

import functools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import Outcome
from parts import Codec, Painter, Patterns, Words

import kgen.config.run_config as configurations
from kgen.backend.variables import copied
from kgen.config import RunConfig
from kgen.errors import SpaceError
from kgen.experiments.directory import RunDirectory
from kgen.experiments.experiment import encoder_with_assets, open_experiment
from kgen.experiments.prompts import Written
from kgen.metrics.retrieval import Retrieval
from kgen.parts.construction import make_decoder
from kgen.pipeline.assembly import assemble, with_decoder
from kgen.pipeline.loading import load
from kgen.pipeline.model import Pipeline
from kgen.random import kept_randomness, seed_everything
from kgen.runs.preflight import preflight
from kgen.runs.run import run
from kgen.runs.samples import generate_prompts

pytestmark = [pytest.mark.portable, pytest.mark.usefixtures("made_plugin", "cache")]

FILE = """\
data: {name: made/patterns, count: 12}
encoder: {name: made/words, dim: 4}
generator: {name: made/painter, width: 4}
fit: {steps: 2, batch_size: 4}
sample: {every: 1, prompts: [pattern 1, pattern 3]}
evaluate: {metrics: [retrieval]}
"""
STAGE = "decoder={name: made/codec, fit: {steps: 2, batch_size: 4}}"
PARTS = (Patterns, Words, Painter, Retrieval)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many objects of each class were made."""
    counts: Counter[str] = Counter()
    for cls in (*PARTS, Codec):

        def counting(
            self: Any, *args: Any, _init: Any = cls.__init__, _name: str = cls.__name__, **kwargs: Any
        ) -> None:
            counts[_name] += 1
            _init(self, *args, **kwargs)

        monkeypatch.setattr(cls, "__init__", functools.wraps(cls.__init__)(counting))
    return counts


def test_each_part_is_created_once(
    file: Path, tmp_path: Path, made: Counter[str], kgen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, encoder, generator and metric; and the run file is read once, besides its copy, which the report shows."""
    read, read_file = [], configurations.read_file
    monkeypatch.setattr("kgen.config.run_config.read_file", lambda path, *a: read.append(path) or read_file(path, *a))
    outcome: Outcome = kgen("run", file, cwd=tmp_path)
    assert outcome.status == 0, outcome
    assert made == dict.fromkeys((cls.__name__ for cls in PARTS), 1)
    assert [path.name for path in read] == [file.name, "config.yaml"]


@pytest.mark.slow
def test_the_decoder_stage_creates_no_other_part_again(file: Path, tmp_path: Path, made: Counter[str]) -> None:
    """There are three decoders: one that is tried, one that is trained, and one that is loaded from its files."""
    config = RunConfig.load(file, [STAGE])
    run(config, tmp_path / "run", log=lambda text: None)
    assert made == {**dict.fromkeys((cls.__name__ for cls in PARTS), 1), "Codec": 3}


@pytest.mark.slow
def test_a_continued_run_creates_each_part_once(file: Path, tmp_path: Path, made: Counter[str]) -> None:
    run(RunConfig.load(file, [STAGE]), tmp_path / "run", log=lambda text: None)
    made.clear()
    run(RunConfig.load(file, [STAGE, "fit.steps=3"]), tmp_path / "run", log=lambda text: None)
    assert made == {**dict.fromkeys((cls.__name__ for cls in PARTS), 1), "Codec": 2}


@pytest.mark.backends
def test_a_run_says_that_its_first_step_is_compiled_where_it_is(file: Path, tmp_path: Path) -> None:
    logged: list[str] = []
    run(RunConfig.load(file), tmp_path / "run", log=logged.append)
    said = [number for number, text in enumerate(logged) if text.startswith("compiling the first training step")]
    assert len(said) == (keras.backend.backend() != "torch"), logged
    assert all("weights to train" in "".join(logged[:number]) for number in said)


@pytest.mark.backends
@pytest.mark.parametrize("overrides", [(), (STAGE,)], ids=["plain", "staged"])
def test_trying_parts_does_not_change_the_training(file: Path, overrides: tuple[str, ...]) -> None:
    """Weights, random states of layers, and the seeds of what is made next."""
    config = RunConfig.load(file, overrides)
    experiment = open_experiment(config)
    seed_everything(3)
    tried = preflight(experiment, encoder_with_assets(config, experiment.dataset, None))
    after = random.random(), np.random.random()
    seed_everything(3)
    encoder = encoder_with_assets(config, experiment.dataset, None)
    with kept_randomness():
        decoder = make_decoder(config.decoder.choice, experiment.dataset.image_space, encoder.condition_space)
        decoder.build(None)
    untried = assemble(encoder=encoder, generator=config.generator.choice, decoder=decoder, dataset=experiment.dataset)
    assert after == (random.random(), np.random.random())
    if overrides:
        tried = with_decoder(tried, decoder)
    for one, other in zip(states(tried), states(untried), strict=True):
        np.testing.assert_array_equal(one, other)


def states(pipeline: Pipeline) -> list[np.ndarray]:
    """All that the pipeline's training begins with."""
    assert any(variable.name == "seed_generator_state" for variable in pipeline.training_variables)
    return [copied(variable) for variable in pipeline.training_variables]


def test_the_final_images_are_those_of_the_saved_pipeline(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are rendered by the pipeline that was trained, which has its averaged weights then."""
    rendered: list[np.ndarray] = []

    def watched(*arguments: Any) -> np.ndarray:
        rendered.append(generate_prompts(*arguments))
        return rendered[-1]

    monkeypatch.setattr("kgen.runs.samples.generate_prompts", watched)
    config = RunConfig.load(file, ["fit.ema=0.5", "fit.learning_rate=0.1", "fit.warmup_steps=0"])
    run(config, tmp_path / "run", log=lambda text: None)
    pipeline = load(tmp_path / "run")
    prompts = Written(["pattern 1", "pattern 3"]).for_encoder(pipeline.encoder)
    np.testing.assert_array_equal(rendered[-1], generate_prompts(config, pipeline, prompts))
    assert len(rendered) > 2 and not np.array_equal(rendered[-1], rendered[0])


def test_another_decoder_must_fit(file: Path) -> None:
    config = RunConfig.load(file)
    experiment = open_experiment(config)
    pipeline = preflight(experiment, encoder_with_assets(config, experiment.dataset, None))
    state = keras.ops.convert_to_numpy(pipeline.seed_generator.state)
    with pytest.raises(SpaceError, match=r"generator Painter makes latents 8x8x3 .*, but decoder Codec reads 4x4x2"):
        with_decoder(pipeline, Codec(experiment.dataset.image_space))
    other = with_decoder(
        pipeline, make_decoder("identity", experiment.dataset.image_space, pipeline.encoder.condition_space)
    )
    assert other.generator is pipeline.generator and other.encoder is pipeline.encoder
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(other.seed_generator.state), state)


def test_changed_files_of_weights_are_noticed_before_the_first_checkpoint(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generator reads its weights from a file that changes between two starts. The decoder is trained before."""
    config, lines = RunConfig.load(file, [STAGE]), list[str]()

    def start() -> list[str]:
        lines.clear()
        with pytest.raises(InterruptedError), monkeypatch.context() as patch:
            patch.setattr("kgen.runs.run._train", lambda *_: (_ for _ in ()).throw(InterruptedError()))
            run(config, tmp_path / "out", log=lines.append)
        return [line for line in lines if "are not those of the last start: a file that it reads has changed" in line]

    def from_other_file(*arguments: Any) -> Pipeline:
        pipeline = preflight(*arguments)
        for variable in pipeline.generator.trainable_weights:
            variable.assign(variable + 1.0)
        return pipeline

    assert not start() and not start()
    monkeypatch.setattr("kgen.runs.run.preflight", from_other_file)
    assert len(start()) == 1 and not start()
    changes = RunDirectory(tmp_path / "out").read_manifest()["changes"]
    assert "a file that it reads has changed" in changes[0]["changed"][0]
