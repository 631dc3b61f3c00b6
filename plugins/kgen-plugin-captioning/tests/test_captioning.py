"""Texts as images, images as tokens, and the dataset that pairs them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_captioning.captioner import caption, open_captioner
from kgen_plugin_captioning.captions import Captions
from kgen_plugin_captioning.letters import ALPHABET, HEIGHT, WIDTH, Letters, glyphs, letter_space, read, spell, written
from kgen_plugin_captioning.tokens import ImageTokens
from kgen_plugin_captioning.wording import Wording

import kgen
from kgen import ConfigError, DataError, RunError, Space, SpaceError
from kgen.contracts.metric import GeneratedImages, measure
from kgen.plugins.discovery import registry
from kgen.testing import DatasetConformance, DecoderConformance, EncoderConformance, MetricConformance

pytestmark = pytest.mark.portable

SHAPES = {
    "name": "shapes",
    "size": 16,
    "colors": ["red", "blue"],
    "shapes": ["circle", "square"],
    "sizes": ["large"],
    "positions": ["left", "right"],
    "holdout": ["blue square"],
    "jitter": 0.03,
    "count": 12,
    "validation": 4,
}
LONGEST = len("a large blue square at the right")


# ---- letters ---------------------------------------------------------------------------------------------------------


@pytest.mark.backends
class TestLetters(DecoderConformance):
    reconstruction: ClassVar = 0.0

    def build(self) -> Letters:
        return Letters(letter_space(9))

    def loss_batch(self, component: Letters, seed: int = 0) -> Any:
        """Images of texts, which are reconstructed exactly."""
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 10, 4)
        texts = ["".join(rng.choice(list(ALPHABET), length)) + "." for length in lengths - 1]
        batch = super().loss_batch(component, seed)
        return {**batch, "images": (np.stack([written(text, 9) for text in texts]) / 127.5 - 1.0).astype(np.float32)}


def test_every_letter_is_reconstructed() -> None:
    text = "".join(letter + "x" for letter in ALPHABET)
    decoder = Letters(letter_space(len(text)))
    image = written("x" + text, len(text) + 1)[:, WIDTH:]
    tokens = ops.convert_to_numpy(decoder.encode(ops.convert_to_tensor((image[None] / 127.5 - 1.0).astype("float32"))))
    assert read(tokens[0].tolist()) == text == decoder.text_of(image)
    np.testing.assert_array_equal(tokens[0], spell("x" + text, len(text) + 1)[1:])
    assert len(np.unique(glyphs()[1:], axis=0)) == len(ALPHABET)


def test_letters_are_read_through_noise() -> None:
    decoder = Letters(letter_space(12))
    image = written("a red heart", 12)
    noise = np.random.default_rng(0).normal(0.0, 60.0, image.shape)
    assert decoder.text_of(np.clip(image + noise, 0, 255)) == "a red heart"


def test_end_tokens_come_only_after_the_last_letter() -> None:
    assert spell(" A b ", 6).tolist() == [2, 1, 3, 0, 0, 0]
    decoder = Letters(letter_space(6))
    assert decoder.latent_space == Space("tokens", (6,), vocabulary=1 + len(ALPHABET))
    assert decoder.text_of(written("a b", 6)) == "a b"
    assert decoder.text_of(written("", 6)) == ""
    white = decoder.decode(ops.zeros((1, 6), "int32"), {}, {})
    assert ops.convert_to_numpy(white).min() == 1.0


def test_texts_that_cannot_be_written_are_named() -> None:
    with pytest.raises(DataError, match="'a red heart' has 11 letters, more than the length 10"):
        spell("a red heart", 10)
    with pytest.raises(DataError, match="'grün' has a letter 'ü'"):
        spell("grün", 10)
    for shape in ((HEIGHT, 3 * WIDTH, 3), (HEIGHT, 3 * WIDTH + 1, 1), (HEIGHT + 1, 3 * WIDTH, 1)):
        with pytest.raises(SpaceError, match=r"a row of letters, 11 x 6 pixels each.*'captioning/captions'"):
            Letters(Space("continuous", shape))


# ---- images as tokens ------------------------------------------------------------------------------------------------


@pytest.mark.backends
class TestImageTokens(EncoderConformance):
    inputs: ClassVar[Any] = tuple(map(np.array, ([3, 1, 2, 0], [7, 7], [2], [[5, 4, 3], [2, 1, 0]])))

    def build(self) -> ImageTokens:
        return ImageTokens(dim=16, depth=2, heads=2)

    @property
    def hard_inputs(self) -> list[Any]:
        return [*self.inputs, None, np.zeros(0, int), np.array([9_999_999]), np.array([[1], [2]], np.uint8)]


def test_tokens_of_images(tmp_path: Path) -> None:
    encoder = ImageTokens(dim=8, depth=1, heads=2)
    assert encoder.fields == ("tokens",) and ImageTokens(field="codes").fields == ("codes",)
    with pytest.raises(ConfigError, match="adapt"):
        encoder.tokenize([[1]])
    encoder.adapt([np.array([[3], [1], [2]]), np.array([0, 4])])
    assert encoder.condition_space == kgen.ConditionSpace(3, 8)
    assert encoder.tokenize([[0, 4, 5], None, [2]])["ids"].tolist() == [[3, 7, 2], [1, 0, 0], [5, 0, 0]]
    for wrong in ("red heart", [1.0], [-1], [2**24]):
        with pytest.raises(ConfigError, match="the tokens of an image are whole numbers"):
            encoder.tokenize([wrong])
    with pytest.raises(ConfigError, match="has 4 tokens, but those of the training had at most 3"):
        encoder.tokenize([[1, 1, 1, 1]])
    with pytest.raises(ConfigError, match=r"'cat\.png' is not an image: 'kgen caption RUN IMAGE'"):
        encoder.parse("cat.png", "tokens")
    for nothing in ([], [np.zeros(0, int)]):
        with pytest.raises(DataError, match="cannot learn from images without tokens"):
            ImageTokens().adapt(nothing)
    with pytest.raises(ValueError, match="must be a multiple of heads 3"):
        ImageTokens(dim=8, heads=3)
    with pytest.raises(RunError, match="cannot be read"):
        encoder.load_assets("/nowhere")
    for content in ("5", '{"vocabulary": 4}', '{"vocabulary": "4", "length": 3}', '{"vocabulary": -4, "length": 3}'):
        (tmp_path / "tokens.json").write_text(content)
        with pytest.raises(RunError, match=r"tokens\.json is damaged: "):
            encoder.load_assets(tmp_path)


def test_positions_matter() -> None:
    encoder = ImageTokens(dim=8, depth=1, heads=2)
    encoder.adapt([[1, 2, 3]])
    pooled = ops.convert_to_numpy(encoder(encoder.tokenize([[1, 2, 3], [3, 2, 1]]))["pooled"])
    assert np.abs(pooled[0] - pooled[1]).max() > 1e-4


# ---- the dataset -----------------------------------------------------------------------------------------------------


class Bright(kgen.Decoder):
    """The token of a block of 8 x 8 pixels is 1 if its red channel is bright, else 0."""

    @property
    def latent_space(self) -> Space:
        height, width, _ = self.image_space.shape
        return Space("tokens", (height // 8, width // 8), vocabulary=2)

    def encode(self, images: Any) -> Any:
        rows, columns = self.latent_space.shape
        blocks = ops.reshape(images[..., 0], (-1, rows, 8, columns, 8))
        return ops.cast(ops.mean(blocks, axis=(2, 4)) > 0.8, "int32")


@pytest.fixture(autouse=True)
def _codec(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run "codec" has a decoder with tokens."""
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
    found = (Bright(Space("continuous", (16, 16, 3))), None)
    monkeypatch.setattr("kgen_plugin_captioning.captions.open_decoder", lambda run: found)


class TestCaptions(DatasetConformance):
    copies: ClassVar = False  # it holds a decoder

    def build(self) -> Captions:
        return Captions(of=SHAPES, codec="codec", length=LONGEST + 3)


class TestWithoutCodec(DatasetConformance):
    def build(self) -> Captions:
        return Captions(of=SHAPES, length=LONGEST)


class TestWording(MetricConformance):
    real: ClassVar = {"exact": (1.0, 1.0), "length": (1.0, 1.0), "letters": (1.0, 1.0)}
    noise: ClassVar = {"exact": (0.0, 0.0), "letters": (0.0, 0.2)}

    def build(self) -> Wording:
        return Wording()

    def dataset(self) -> Captions:
        return Captions(of=SHAPES, codec="codec", length=LONGEST)


def test_all_are_registered() -> None:
    mine = [c for c in registry().components.values() if c.origin.namespace == "captioning"]
    assert {c.id: c.load() for c in mine} == {
        "captioning/captions": Captions,
        "captioning/letters": Letters,
        "captioning/tokens": ImageTokens,
        "captioning/wording": Wording,
    }


def test_texts_are_paired_with_what_they_describe() -> None:
    made = Captions(of=SHAPES, codec="codec", length=LONGEST)
    before = kgen.make_dataset(SHAPES)
    assert made.fields == ("image", "caption", "original", "tokens", "label")
    for split in ("train", "validation", "holdout"):
        assert list(made.captions(split)) == list(before.captions(split))
        for index, text in enumerate(made.captions(split)):
            example, original = made.example(split, index), before.image(split, index)
            assert Letters(made.image_space).text_of(example["image"]) == text
            assert example["label"] == before.values(split, "label")[index]
            np.testing.assert_array_equal(example["original"], original)
            blocks = original[..., 0].reshape(2, 8, 2, 8).mean((1, 3)).reshape(-1) / 127.5 - 1.0 > 0.8
            np.testing.assert_array_equal(example["tokens"], blocks)
            known = made.fields_of(original)
            np.testing.assert_array_equal(known["tokens"], example["tokens"])
            np.testing.assert_array_equal(known["original"], original)
    assert set(Captions(of=SHAPES, length=LONGEST).fields_of(original)) == {"original"}


def test_the_fingerprint_follows_the_originals_and_the_tokens() -> None:
    one, other = ({**SHAPES, "jitter": jitter} for jitter in (0.03, 0.02))  # the captions are the same
    prints = [
        Captions(of=of, codec=codec, length=LONGEST).fingerprint() for of in (one, other) for codec in ("x", None)
    ]
    assert len(set(prints)) == 4


def test_half_right_captions() -> None:
    made = Captions(of=SHAPES, codec="codec", length=LONGEST)
    texts = made.captions("train")[:2]
    images = np.stack([made.image("train", 0), written(texts[1][:-1] + "z", LONGEST)])
    scores = measure(Wording(), made, "train", [GeneratedImages(images, texts)])
    letters = len(texts[1])
    assert scores == pytest.approx({"exact": 0.5, "length": 1.0, "letters": 1 - 0.5 / letters})
    images[1] = written(texts[1][:-1], LONGEST)
    scores = measure(Wording(), made, "train", [GeneratedImages(images, texts)])
    assert scores == pytest.approx({"exact": 0.5, "length": 0.5, "letters": 1 - 0.5 / letters})


def test_invalid_captions_datasets_and_codecs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"captions: 'a large .*' has \d+ letters, more than the length 20"):
        Captions(of=SHAPES, length=20)
    with pytest.raises(ConfigError, match=r"images of codec are 16x16x3 .*, but the images to caption are 32x32x3"):
        Captions(of={**SHAPES, "size": 32}, codec="codec")
    with pytest.raises(ConfigError, match="unknown dataset 'shoes'"):
        Captions(of="shoes")
    spaces = Space("continuous", (16, 16, 3)), kgen.ConditionSpace(1, 4)
    pixels = (kgen.make_decoder("identity", *spaces), None)
    monkeypatch.setattr("kgen_plugin_captioning.captions.open_decoder", lambda run: pixels)
    with pytest.raises(ConfigError, match="the latents of there are 16x16x3 continuous, not tokens"):
        Captions(of=SHAPES, codec="there")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"captions: codec: .*nowhere is not a run directory"):
        Captions(of=SHAPES, codec="nowhere")


# ---- captioning ------------------------------------------------------------------------------------------------------


class Recall(kgen.Generator):
    """Stands for a trained model: it writes the text whose number is given in binary by the tokens."""

    accepts = ("tokens",)
    texts = tuple(f"text {number}" for number in range(16))

    def __init__(self, space: Space, condition_space: kgen.ConditionSpace, **kwargs: Any) -> None:
        super().__init__(space, condition_space, **kwargs)

    def compute_losses(self, x: Any, condition: Any, training: bool) -> dict[str, Any]:
        return {"loss": ops.mean(condition["pooled"], axis=-1)}

    def noise_spec(self) -> dict[str, kgen.NoiseSpec]:
        return {}

    def generate(self, condition: Any, null_condition: Any, noise: Any) -> Any:
        table = np.stack([spell(text, self.space.shape[0]) for text in self.texts])
        return ops.take(table, ops.cast(condition["pooled"][:, 0], "int32"), axis=0)


class Binary(ImageTokens):
    """An encoder whose condition is the number that the tokens give in binary."""

    @property
    def condition_space(self) -> kgen.ConditionSpace:
        return kgen.ConditionSpace(1, 1)

    def call(self, tokens: Any, training: bool = False) -> Any:
        bits = ops.cast(tokens["ids"] == 4, "float32")  # of token 1, as 3 are reserved
        number = ops.sum(bits * np.array([8.0, 4.0, 2.0, 1.0], np.float32), axis=1, keepdims=True)
        return {"sequence": number[:, None], "mask": ops.ones_like(number), "pooled": number}


def captioner() -> tuple[kgen.Pipeline, Captions]:
    dataset = Captions(of=SHAPES, codec="codec", length=LONGEST)
    encoder = Binary(dim=8)
    encoder.adapt([[0, 1, 1, 1]])
    decoder = Letters(dataset.image_space)
    generator = Recall(decoder.latent_space, encoder.condition_space)
    return kgen.assemble(encoder=encoder, generator=generator, decoder=decoder, dataset=dataset), dataset


def test_images_are_captioned() -> None:
    pipeline, dataset = captioner()
    images = [dataset.originals.image("train", index) for index in range(6)]
    expected = []
    for image in images:
        bits = image[..., 0].reshape(2, 8, 2, 8).mean((1, 3)).reshape(-1) / 127.5 - 1.0 > 0.8
        expected.append(f"text {int(bits @ [8, 4, 2, 1])}")
    assert len(set(expected)) > 1
    assert caption(pipeline, dataset, images) == expected


def test_runs_without_captioning_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, dataset = captioner()
    module = "kgen_plugin_captioning.captioner"
    monkeypatch.setattr(f"{module}.open_dataset", lambda run: dataset)
    monkeypatch.setattr(f"{module}.load", lambda run: pipeline)
    assert open_captioner("run") == (pipeline, dataset)
    pipeline.encoder.fields = ("caption",)
    with pytest.raises(ConfigError, match="of run reads 'caption', which an image without a caption does not have"):
        open_captioner("run")
    decoder = kgen.make_decoder("identity", dataset.image_space, pipeline.encoder.condition_space)
    monkeypatch.setattr(f"{module}.load", lambda run: SimpleNamespace(encoder=pipeline.encoder, decoder=decoder))
    with pytest.raises(ConfigError, match=r"does not generate texts: its decoder is Identity.*'captioning/letters'"):
        open_captioner("run")
    monkeypatch.setattr(f"{module}.open_dataset", lambda run: kgen.make_dataset(SHAPES))
    with pytest.raises(ConfigError, match="run does not caption images: its dataset is Shapes"):
        open_captioner("run")
    monkeypatch.undo()
    with pytest.raises(RunError, match="is not a run directory"):
        open_captioner("nowhere")
