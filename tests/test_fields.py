"""Encoders of any field of an example: labels, images, several fields."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Outcome
from parts import Lengths, MeanColor, Painter, Patterns, Words
from PIL import Image

import kgen
from kgen.contracts.inputs import EncoderInputs, Visits, as_input, input_key
from kgen.data.datasets.imagefolder import ImageFolder
from kgen.data.datasets.shapes import Shapes
from kgen.data.loader import Loader
from kgen.experiments.prompts import Written, prompts_to_generate, prompts_to_score
from kgen.pipeline.prompts import parse_prompts
from kgen.testing import EncoderConformance

SHAPES = Shapes(size=16, colors=("red", "blue"), holdout=("blue star",), sizes=("large",), positions=("middle",))
RUN = """\
data: {name: shapes, size: 16, count: 24, holdout: [purple square]}
encoder: {name: text/label, dim: 8}
generator: {name: diffusion/diffusion, network: {kind: dit, patch: 4, width: 8, depth: 1, heads: 2}}
fit: {steps: 2, batch_size: 4}
sample: {every: 0, options: {steps: 2}}
evaluate: {metrics: [attributes], max_prompts: 4}
"""


class TestMeanColor(EncoderConformance):
    inputs = tuple(np.random.default_rng(i).integers(0, 256, (4 + i, 6, 3), dtype=np.uint8) for i in range(3))

    def build(self) -> MeanColor:
        return MeanColor()


class TestLengths(EncoderConformance):
    inputs = ({"caption": "a red circle", "label": "circle"}, {"caption": "a star", "label": "star"})

    def build(self) -> Lengths:
        return Lengths()


# ---- datasets --------------------------------------------------------------------------------------------------------


def test_examples_hold_all_fields() -> None:
    assert SHAPES.fields == ("image", "caption", "label")
    example = SHAPES.example("holdout", 0)
    assert example["caption"] == "a large blue star in the middle" and example["label"] == "star"
    np.testing.assert_array_equal(example["image"], SHAPES.image("holdout", 0))
    two = Shapes(objects=2, size=16, colors=("red",), shapes=("circle", "star"), sizes=("small",))
    assert set(two.values("train", "label")) == {f"{a} and {b}" for a in ("circle", "star") for b in ("circle", "star")}
    with pytest.raises(kgen.DataError, match=r"Patterns has no field 'label': it has image, caption"):
        Patterns().values("train", "label")


def test_class_folders_are_labels(tmp_path: Path) -> None:
    for name in ("red_fox", "sky"):
        (tmp_path / name).mkdir()
        for i in range(2):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    dataset = ImageFolder(path=str(tmp_path), size=8, template="a photo of a {label}", flip=True)
    assert list(dataset.values("train", "label")) == ["red fox", "red fox", "sky", "sky"] * 2
    assert dataset.example("train", 7)["caption"] == "a photo of a sky"
    assert ImageFolder(path=str(tmp_path), size=8, captions_from="none").fields == ("image", "caption")


# ---- inputs ----------------------------------------------------------------------------------------------------------


def test_keys_distinguish_inputs() -> None:
    image = np.zeros((2, 3, 1), np.uint8)
    assert input_key("a") == "a" and input_key(3) == "3" and input_key(np.int64(3)) == "3"
    assert input_key(None) == input_key("") == input_key({"caption": "", "image": None}) == ""
    different = [
        image,
        image.reshape(3, 2, 1),
        image + 1,
        image.astype("int32"),
        {"a": image},
        {"b": image},
        {"a": "1"},
    ]
    assert len({input_key(value) for value in different}) == len(different)
    assert input_key({"a": "x", "b": 1}) == input_key({"b": 1, "a": "x"})
    with pytest.raises(kgen.ConfigError, match="not bool"):
        input_key(True)


def test_prompts_are_values_or_mappings() -> None:
    assert as_input(Words(), {"caption": "x"}) == "x" == as_input(Words(), "x")
    assert as_input(Lengths(), {"label": "x"}) == {"caption": "", "label": "x"}
    assert as_input(Lengths(), "") == Lengths().null and as_input(MeanColor(), None) is None
    with pytest.raises(kgen.ConfigError, match=r"reads caption and label: a prompt is a mapping .*\{caption: "):
        as_input(Lengths(), "x")
    with pytest.raises(kgen.ConfigError, match=r"cannot hold 'labels'; did you mean 'label'\?"):
        as_input(Lengths(), {"labels": "x"})
    given = ["{caption: a star, label: 3}", {"caption": "a star"}, ""]
    assert parse_prompts(Lengths(), given) == [
        {"caption": "a star", "label": "3"},
        {"caption": "a star", "label": ""},
        {"caption": "", "label": ""},
    ]


def test_the_loader_reads_what_the_encoder_reads() -> None:
    encoder = MeanColor()
    batch = next(iter(Loader(SHAPES, encoder, batch_size=4).once()))
    np.testing.assert_allclose(batch["tokens"]["color"], batch["image"].mean((1, 2)), rtol=1e-6)
    lengths = next(iter(Loader(SHAPES, Lengths(), batch_size=4).once()))["tokens"]["lengths"]
    assert lengths.tolist() == [[len(c), len(c.split()[3])] for c in SHAPES.captions("train")[:4]]


def test_the_image_of_a_visit_is_read_once() -> None:
    """Several encoders may read it."""
    read: list[int] = []
    for fields in (("image",), ("image", "label")):
        visits = Visits("train", [3, 1], [None, None], [0, 0])
        images = [lambda row=row: (read.append(row), SHAPES.image("train", row))[1] for row in visits.rows]
        inputs = EncoderInputs(SHAPES, "train", fields).visited(visits, images)
        assert len(inputs) == 2
        for _ in range(2):
            image = inputs[1] if len(fields) == 1 else inputs[1]["image"]
            np.testing.assert_array_equal(image, SHAPES.image("train", 1))
    assert read == [1, 1]


def test_mirrored_examples_have_mirrored_inputs() -> None:
    whole = EncoderInputs(SHAPES, "train", ("image", "label"), flip=True)
    assert len(whole) == 2 * len(SHAPES.captions("train"))
    for row in (2, 3):
        image = SHAPES.image("train", 1)
        np.testing.assert_array_equal(whole[row]["image"], image if row == 2 else image[:, ::-1])
        assert whole[row]["label"] == SHAPES.values("train", "label")[1]


# ---- pipelines -------------------------------------------------------------------------------------------------------


def pipeline(encoder: kgen.Encoder, dataset: kgen.Dataset) -> kgen.Pipeline:
    generator = Painter(dataset.image_space, encoder.condition_space)
    return kgen.assemble(encoder=encoder, generator=generator, dataset=dataset)


def test_images_are_prompts() -> None:
    model = pipeline(MeanColor(), SHAPES)
    image = SHAPES.image("train", 0)
    batch = model.inputs(image[None])
    np.testing.assert_allclose(batch["tokens"]["color"], image.mean((0, 1))[None], rtol=1e-6)
    large = image.repeat(2, 0).repeat(2, 1)  # of the same mean: the same image of the same noise but for the key
    made = model.generate([image, large], shared_noise=True)
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(model.generate(image), model.generate([image]))
    assert (model.generate(image, seed=1) != model.generate(image, seed=2)).any()
    model.compile("sgd")
    model.fit(np.stack([image, image]), verbose=0)


def test_several_fields_are_a_mapping() -> None:
    model = pipeline(Lengths(), SHAPES)
    made = model.generate({"caption": "a star"}, negative_prompt=None)
    np.testing.assert_array_equal(made, model.generate([{"caption": "a star", "label": ""}]))
    images = np.stack([SHAPES.image("train", 0)] * 2)
    batch = model.inputs(images, [{"caption": "abc", "label": "x"}, {"label": "yy"}])
    assert batch["tokens"]["lengths"].tolist() == [[3, 1], [0, 2]]
    with pytest.raises(kgen.DataError, match=r"images need their captions.*\(caption, label\)"):
        model.inputs(images)


def test_a_field_that_is_not_there_is_refused() -> None:
    message = (
        r"encoder 'parts:Lengths' reads the field 'label', but dataset 'parts:Patterns' has image, caption: choose"
    )
    with pytest.raises(kgen.ConfigError, match=message):
        pipeline(Lengths(), Patterns())


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_prompts_are_made_of_examples() -> None:
    scored = prompts_to_score(SHAPES, "train", Lengths().fields, 100)
    assert list(scored.texts) == list(SHAPES.captions("train"))
    assert scored.inputs[0] == {"caption": scored.texts[0], "label": "circle"}
    few = prompts_to_score(SHAPES, "train", MeanColor().fields, 3)
    np.testing.assert_array_equal(few.inputs[2], SHAPES.image("train", len(SHAPES.captions("train")) - 1))
    other = scored.some(2).for_encoder(MeanColor(), SHAPES)
    np.testing.assert_array_equal(other.inputs[0], SHAPES.image("train", 0))
    with pytest.raises(kgen.ConfigError, match="reads the field 'label'"):
        scored.for_encoder(Lengths(), Patterns())


def test_written_prompts_are_read_by_each_encoder() -> None:
    prompts = Written([{"caption": "a star", "label": 3}, "{label: x}", ""]).for_encoder(Lengths())
    assert prompts.inputs == [{"caption": "a star", "label": "3"}, {"caption": "", "label": "x"}, Lengths().null]
    assert prompts.texts == ["caption: a star, label: 3", "{label: x}", ""]
    again = prompts.some(2).for_encoder(Lengths(), SHAPES)
    assert again.inputs == [prompts.inputs[0], prompts.inputs[2]]
    with pytest.raises(kgen.ConfigError, match="reads caption: a prompt cannot hold 'label'"):
        prompts.for_encoder(Words(), SHAPES)


@pytest.mark.slow
def test_a_class_label_trains_a_diffusion(kgen: Callable[..., Outcome], tmp_path: Path) -> None:
    config = tmp_path / "labels.yaml"
    config.write_text(RUN, encoding="utf-8")
    outcome = kgen("run", config, cwd=tmp_path)
    assert outcome.status == 0, outcome
    assert "attributes accuracy" in outcome.out
    run = tmp_path / "runs" / "labels"
    outcome = kgen("generate", run, "circle", "square", "--set", "steps=2", "-o", "out/", cwd=tmp_path)
    assert outcome.status == 0, outcome
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0000-circle.png", "0001-square.png"]
    kgen("generate", run, "squares", cwd=tmp_path).refuses("prompt 'squares' is not one of the 6 classes", "'square'")
    other = tmp_path / "other.yaml"
    hearts = RUN.replace("shapes, size: 16, count: 24, holdout: [purple square]", "openmoji, match: [heart]")
    other.write_text(hearts.replace("metrics: [attributes]", "metrics: []"))
    kgen("check", other, cwd=tmp_path).refuses(
        "encoder 'text/label' reads the field 'label', but dataset 'openmoji/openmoji' has image, caption"
    )


def test_grids_show_each_label_once(toy: None) -> None:
    from kgen_plugin_text.label import ClassLabel

    from kgen.config import RunConfig

    config = RunConfig.from_dict(
        {"data": "squares", "encoder": "letters", "generator": "toy/means", "fit": {"steps": 1}}
    )
    encoder: Any = ClassLabel(dim=4)
    chosen = prompts_to_generate(config, SHAPES, encoder)
    assert list(chosen.texts) == ["circle", "square", "triangle", "diamond", "cross", "star", "star"]
    assert chosen.source[-1] == ("holdout", 0)
    images = prompts_to_generate(config, SHAPES, MeanColor())
    assert images.texts[0] == "a large red circle in the middle" and images.inputs[0].shape == (16, 16, 3)


VARIATIONS = """\
data: {name: shapes, size: 16, count: 24}
encoder: {name: vision/patches, dim: 8, depth: 1, heads: 2, pool: true}
generator: {name: diffusion/diffusion, network: {kind: dit, patch: 4, width: 8, depth: 1, heads: 2}}
condition_dropout: 0.2
fit: {steps: 2, batch_size: 4, flip: true}
sample: {every: 2, options: {steps: 2, guidance: 1.5}}
evaluate: {metrics: [attributes], max_prompts: 4}
"""


@pytest.mark.slow
def test_an_image_encoder_trains_a_diffusion(kgen: Callable[..., Outcome], tmp_path: Path) -> None:
    config = tmp_path / "variations.yaml"
    config.write_text(VARIATIONS, encoding="utf-8")
    outcome = kgen("run", config, cwd=tmp_path)
    assert outcome.status == 0, outcome
    Image.fromarray(SHAPES.image("train", 0)).resize((40, 30)).save(tmp_path / "star.png")
    run = tmp_path / "runs" / "variations"
    outcome = kgen("generate", run, "star.png", "-n", "2", "--set", "steps=2", "-o", "out/", cwd=tmp_path)
    assert outcome.status == 0, outcome
    assert len(list((tmp_path / "out").iterdir())) == 2
    kgen("generate", run, "no.png", cwd=tmp_path).refuses("no.png: No such file")
    outcome = kgen("compare", run, "-o", "both", cwd=tmp_path)
    assert outcome.status == 0, outcome
