"""Several encoders side by side: what they make together, what training drops, and how they are written and saved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from command_line import Outcome
from keras import ops
from parts import BFLOAT16, Lengths, MeanColor, Painter, Words

import kgen
from kgen import ConditionSpace, Encoder, Joint
from kgen.config import RunConfig
from kgen.config.schema import run_file_schema
from kgen.contracts.inputs import AllEncoderInputs, Visits
from kgen.data.datasets.shapes import Shapes
from kgen.data.frozen.conditions import condition_reader
from kgen.parts.saving import saved_weights
from kgen.runs.first_lines import unread_captions
from kgen.testing import EncoderConformance

SHAPES = Shapes(size=16, colors=("red", "blue"), holdout=("blue star",), sizes=("large",), positions=("middle",))

RUN = """\
data: {name: shapes, size: 16, count: 24, holdout: [purple square]}
encoder:
  - {name: text/bag, dim: 8, length: 9, condition_dropout: 0.5}
  - {name: text/transformer, dim: 12, depth: 1, heads: 2, length: 6, vocabulary: 260}
  - {name: text/label, dim: 4, condition_dropout: 0.2}
generator: {name: diffusion/diffusion, network: {kind: dit, patch: 4, width: 8, depth: 1, heads: 2}}
fit: {steps: 2, batch_size: 4}
sample: {every: 0, options: {steps: 2}}
evaluate: {metrics: [attributes], max_prompts: 4}
"""


class Ragged(Encoder):
    """Each position has the number of a letter, repeated `dim` times. Padding has values that must not be read."""

    def __init__(self, *, length: int = 3, dim: int = 2, pooled: int = 1, frozen: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length, self.dim, self.pooled, self.frozen = length, dim, pooled, frozen
        self.trainable = not frozen

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(self.length, self.dim, self.pooled)

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def tokenize(self, inputs: Any) -> dict[str, np.ndarray]:
        numbers = np.zeros((len(inputs), self.length), np.float32)
        for row, text in zip(numbers, inputs, strict=True):
            row[: len(text)] = [ord(letter) - 96 for letter in text[: self.length]]
        return {"numbers": numbers}

    def unread(self, value: str) -> str:
        return f"only {self.length} letters are read" if len(value) > self.length else ""

    def call(self, tokens: Any, training: bool = False) -> dict[str, Any]:
        numbers = tokens["numbers"] * self.scale
        begin = ops.cast(ops.arange(self.length) == 0, numbers.dtype)
        mask = ops.maximum(ops.cast(numbers > 0, numbers.dtype), begin)  # (B, L)
        sequence = ops.repeat(ops.where(numbers > 0, numbers, -7.0 * (1.0 - begin))[..., None], self.dim, axis=-1)
        pooled = ops.repeat(ops.sum(numbers, axis=1)[:, None], self.pooled, axis=-1)
        return {"sequence": sequence, "mask": mask, "pooled": pooled}


class TestInLength(EncoderConformance):
    inputs = ({"caption": "a red circle", "label": "circle"}, {"caption": "a star", "label": "star"})
    pads = False

    def build(self) -> Joint:
        return Joint.of([Words(dim=4), Lengths()])

    @property
    def hard_inputs(self) -> list[Any]:
        return [*self.inputs, self.example().null]


class TestInWidth(TestInLength):
    def build(self) -> Joint:
        return Joint.of([Words(dim=4), Lengths(), Lengths()], join="width", condition_dropout=[0.5])


def encode(encoder: Encoder, *inputs: Any, training: bool = False) -> dict[str, np.ndarray]:
    made = encoder(encoder.tokenize(inputs), training=training)
    return {name: ops.convert_to_numpy(value) for name, value in made.items()}


# ---- what they make together -----------------------------------------------------------------------------------------


@pytest.mark.backends
def test_joined_in_length() -> None:
    joint = Joint.of([Ragged(length=2, dim=1), Ragged(length=3, dim=2, pooled=2)])
    assert joint.condition_space == ConditionSpace(5, 2, 3) and joint.fields == ("caption",) and joint.null == ""
    made = encode(joint, "abc", "")
    np.testing.assert_allclose(made["sequence"][0], [[1, 0], [2, 0], [1, 1], [2, 2], [3, 3]])
    np.testing.assert_allclose(made["mask"], [[1, 1, 1, 1, 1], [1, 0, 1, 0, 0]])
    np.testing.assert_allclose(made["pooled"], [[3, 6, 6], [0, 0, 0]])


@pytest.mark.backends
def test_joined_in_width() -> None:
    joint = Joint.of([Ragged(length=2, dim=1), Ragged(length=4, dim=2, pooled=2)], join="width")
    assert joint.condition_space == ConditionSpace(4, 3, 3)
    made = encode(joint, "abc", "a")
    np.testing.assert_allclose(made["sequence"][0], [[1, 1, 1], [2, 2, 2], [0, 3, 3], [0, 0, 0]])
    np.testing.assert_allclose(made["sequence"][1], [[1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(made["mask"], [[1, 1, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_allclose(made["pooled"], [[3, 6, 6], [1, 1, 1]])


def test_as_in_stable_diffusion_3() -> None:
    """Two of one length in width, then a wider one in length."""
    clips = Joint.of([Ragged(length=4, dim=2), Ragged(length=4, dim=3)], join="width")
    joint = Joint.of([clips, Ragged(length=6, dim=9)])
    assert joint.condition_space == ConditionSpace(10, 9, 3)
    assert joint.parts() == (*clips.joined, joint.joined[1])
    made = encode(joint, "ab")
    np.testing.assert_allclose(made["sequence"][0, 1], [2] * 5 + [0] * 4)
    np.testing.assert_allclose(made["sequence"][0, 5], [2] * 9)
    name = f"{Ragged.__module__}:Ragged"
    assert joint.unread("abcde") == "; ".join([f"encoder '{name}': only 4 letters are read"] * 2)


def test_each_reads_its_own_fields() -> None:
    joint = Joint.of([Words(dim=4), MeanColor(), Lengths()])
    assert joint.fields == ("caption", "image", "label")
    assert joint.null == {"caption": "", "image": None, "label": ""}
    joint.adapt(AllEncoderInputs(SHAPES, joint.fields))
    assert joint.joined[0].words == tuple(sorted({*SHAPES.captions("train"), *SHAPES.captions("holdout")}))
    example = SHAPES.example("train", 0)
    pooled = encode(joint, example)["pooled"][0]
    np.testing.assert_allclose(pooled[4:7], example["image"].mean((0, 1)) / 255, rtol=1e-5)
    np.testing.assert_allclose(pooled[7:], [len(example["caption"]), len(example["label"])])


def test_two_encoders_at_least() -> None:
    with pytest.raises(ValueError, match="at least two, not 1"):
        Joint.of([Words()])
    with pytest.raises(kgen.ConfigError, match="at least two, not 1"):
        kgen.assemble(encoder=[Words()], generator="x", image_space=(8, 8, 3))


# ---- dropout ---------------------------------------------------------------------------------------------------------


@pytest.mark.backends
def test_each_encoder_has_a_separate_dropout() -> None:
    joint = Joint.of([Ragged(), Ragged(dim=1), Ragged()], condition_dropout=[0.25, 0.5])
    assert not joint.shows_null and Joint.of([Ragged(), Ragged()], condition_dropout=[0.1, 0.1]).shows_null
    pooled = encode(joint, *["abc"] * 2000, training=True)["pooled"]
    dropped = pooled == 0
    assert set(np.unique(pooled)) == {0.0, 6.0}
    np.testing.assert_allclose(dropped.mean(0), [0.25, 0.5, 0.0], atol=0.04)
    assert (dropped[:, 0] & dropped[:, 1]).mean() == pytest.approx(0.125, abs=0.03)  # independently
    made = encode(joint, *["abc"] * 20, training=True)
    np.testing.assert_allclose(made["mask"][:, 3:6].sum(1), np.where(made["pooled"][:, 1] == 0, 1, 3))  # as of nothing
    assert not (encode(joint, *["abc"] * 20)["pooled"] == 0).any()


# ---- frozen and trained ----------------------------------------------------------------------------------------------


def test_conditions_of_frozen_ones_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch holds them, what they make of nothing is known, and the whole is what it would be without a cache."""
    joint = Joint.of([Ragged(frozen=True), Ragged(dim=1), MeanColor()], condition_dropout=[0.5, 0.0, 0.5])
    joint.null_condition()
    read = condition_reader(joint, AllEncoderInputs(SHAPES, joint.fields), tmp_path)
    inputs = [SHAPES.example("train", i) for i in range(4)]
    inputs = [{field: example[field] for field in joint.fields} for example in inputs]
    visits, more = (Visits("train", [0, 1, 2, 3] * n, [None] * 4 * n, [0] * 4 * n) for n in (1, 20))
    tokens = read(inputs, visits)["tokens"]
    assert set(tokens) == {f"{i}.condition.{name}" for i in (0, 2) for name in ("sequence", "mask", "pooled")} | {
        "1.numbers"
    }
    made, right = joint(tokens), joint(joint.tokenize(inputs))
    for name in right:
        np.testing.assert_allclose(ops.convert_to_numpy(made[name]), ops.convert_to_numpy(right[name]), rtol=BFLOAT16)
    joint.joined[0].scale.assign(99.0)  # a new computation would show it
    for cls in (Ragged, MeanColor):
        monkeypatch.setattr(cls, "null_condition", None)  # as this would
    dropped = ops.convert_to_numpy(joint(read(inputs * 20, more)["tokens"], training=True)["pooled"])
    assert set(np.unique(dropped[:, 0] == 0)) == {True, False}
    rows = [read(inputs, visits)["tokens"]["0.condition.pooled"][i % 4, 0] for i in range(80)]
    np.testing.assert_allclose(dropped[:, 0], np.where(dropped[:, 0] == 0, 0, rows))
    assert joint.trainable and not Joint.of([MeanColor(), Ragged(frozen=True)]).trainable


def test_unread_captions_are_counted_for_each() -> None:
    joint = Joint.of([Ragged(length=5), MeanColor(), Ragged(length=32)])
    lines = list(unread_captions(SHAPES, joint))
    assert len(lines) == 2 and lines[0].startswith("12 of 12 different captions") and lines[1].startswith("6 of 12")


# ---- saved -----------------------------------------------------------------------------------------------------------


class Elsewhere(Ragged):
    """Its weights come from elsewhere."""

    weights_are_external = True


def test_saved_and_loaded(tmp_path: Path) -> None:
    joint = Joint.of([Words(dim=4), Elsewhere(frozen=True), Lengths()], join="width", condition_dropout=[0, 0, 0.5])
    joint.adapt(AllEncoderInputs(SHAPES, joint.fields))
    generator = Painter(SHAPES.image_space, joint.condition_space)
    pipeline = kgen.assemble(encoder=joint, generator=generator, dataset=SHAPES)
    table = joint.joined[0].table
    table.assign(np.random.default_rng(0).normal(size=table.shape))
    of_encoder = [path for path in saved_weights(pipeline) if path.startswith("encoder/")]
    assert len(of_encoder) == 1 and of_encoder[0].endswith("table")
    assert not {id(w) for w in joint.joined[1].weights} & {id(v) for v in pipeline.training_variables}
    prompts = [{"caption": SHAPES.captions("train")[0]}, {"label": "star"}]
    images = pipeline.generate(prompts)
    pipeline.save(tmp_path / "model")
    again = kgen.load(tmp_path / "model", custom=[Words, Elsewhere, Lengths, Painter])
    assert again.encoder.config == joint.config and again.encoder.rates == (0.0, 0.0, 0.5)
    for other in (again, copy.deepcopy(pipeline)):
        np.testing.assert_allclose(other.generate(prompts), images, atol=1)
    with pytest.raises(kgen.ConfigError, match=r"encoder parts:Lengths is in no plugin.*custom=\[Lengths\]"):
        kgen.load(tmp_path / "model", custom=[Words, Elsewhere, Painter])


# ---- written ---------------------------------------------------------------------------------------------------------


def config(text: str = RUN, *overrides: str) -> RunConfig:
    return RunConfig.from_dict(yaml.safe_load(text), overrides)


def test_a_list_is_a_joint_encoder() -> None:
    read = config()
    assert read.encoder.name == "kgen/joint" and read.encoder.options["join"] == "length"
    assert [part.name for part in read.encoder.joined] == ["text/bag", "text/transformer", "text/label"]
    assert read.encoder.options["encoders"][0] == {
        **{"name": "text/bag", "dim": 8, "length": 9, "vocabulary": 10000, "min_count": 1, "pooling": "mean"},
        "condition_dropout": 0.5,
    }
    assert RunConfig.from_dict(read.dump()) == read
    wide = "{join: width, encoders: [bag, {join: length, name: joint, encoders: [bag, class]}]}"
    assert [part.name for part in config(RUN, f"encoder={wide}").encoder.joined] == [
        *("text/bag", "kgen/joint", "text/bag", "text/class")
    ]
    validator = jsonschema.Draft202012Validator(run_file_schema())
    assert validator.is_valid(yaml.safe_load(RUN))
    assert validator.is_valid({**yaml.safe_load(RUN), "encoder": yaml.safe_load(wide)})
    assert not validator.is_valid({**yaml.safe_load(RUN), "encoder": [{"name": "bag", "dims": 8}, "bag"]})


WRONG = {
    "[bag, {name: bag, dims: 8}]": r"encoder\[1\]\.dims: unknown key; did you mean 'dim'\? \(text/bag takes: dim, ",
    "[bag, bagg]": r"encoder\[1\]: unknown encoder 'bagg': did you mean",
    "[bag, {dim: 8}]": r"encoder\[1\]: must be the name of one encoder, or a mapping with 'name', got \{'dim': 8\}",
    "[bag, {name: bag, condition_dropout: 1.5}]": r"encoder\[1\]\.condition_dropout: must be less than 1",
    "{join: wide, encoders: [bag, bag]}": r"encoder\.join: must be 'length' or 'width', got 'wide'",
    "{name: bag, condition_dropout: 0.5}": r"encoder\.condition_dropout: unknown key",
    "{encoders: bag}": r"encoder\.encoders: must be a list",
}


@pytest.mark.parametrize("written", WRONG)
def test_errors_are_named_with_their_place(written: str) -> None:
    with pytest.raises(kgen.ConfigError, match=WRONG[written]):
        config(RUN, f"encoder={written}")


def test_guidance_needs_condition_dropout() -> None:
    guided = ("condition_dropout=0", "sample.options={steps: 2, guidance: 2}")
    with pytest.raises(kgen.ConfigError, match="condition_dropout is 0"):
        config(RUN, *guided)
    config(RUN.replace("vocabulary: 260}", "vocabulary: 260, condition_dropout: 0.1}"), *guided)


@pytest.mark.slow
@pytest.mark.parametrize("join", ["length", "width"])
def test_three_encoders_train_a_diffusion(join: str, kgen: Callable[..., Outcome], tmp_path: Path) -> None:
    path = tmp_path / "joint.yaml"
    listed = RUN[RUN.index("  - ") : RUN.index("generator")].replace("  - ", "    - ")
    text = RUN[: RUN.index("  - ")] + f"  join: {join}\n  encoders:\n" + listed + RUN[RUN.index("generator") :]
    path.write_text(text if join == "width" else RUN, encoding="utf-8")
    outcome = kgen("run", path, cwd=tmp_path)
    assert outcome.status == 0, outcome
    run = tmp_path / "runs" / "joint"
    assert (run / "model" / "encoder" / "2" / "classes.json").is_file()
    prompt = "{caption: a small red circle at the left, label: circle}"
    outcome = kgen("generate", run, prompt, "{label: star}", "--set", "steps=2", "-o", "out/", cwd=tmp_path)
    assert outcome.status == 0, outcome
    assert len(list((tmp_path / "out").iterdir())) == 2
    kgen("generate", run, "star", cwd=tmp_path).refuses(
        "reads caption and label: a prompt is a mapping of these fields"
    )
    outcome = kgen("run", run, "--set", "fit.steps=3", cwd=tmp_path)
    assert outcome.status == 0, outcome
