"""Captions drawn as letters, of images read as tokens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_tokens.captions import Captions, Wording
from kgen_plugin_tokens.images import Images
from kgen_plugin_tokens.letters import ALPHABET, HEIGHT, WIDTH, Letters, glyphs, letter_space, read, spell, written
from PIL import Image

import kgen
from kgen import ConfigError, DataError, RunError, Space, SpaceError
from kgen.cli.commands.caption import command
from kgen.config import RunConfig
from kgen.contracts.metric import GeneratedImages, measure
from kgen.runs.captioning import caption, open_captioner
from kgen.runs.run import run
from kgen.testing import DatasetConformance, DecoderConformance, EncoderConformance, MetricConformance

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
        """Images of texts: it loses nothing of these."""
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 10, 4)
        texts = ["".join(rng.choice(list(ALPHABET), length)) + "." for length in lengths - 1]
        batch = super().loss_batch(component, seed)
        return {**batch, "images": (np.stack([written(text, 9) for text in texts]) / 127.5 - 1.0).astype(np.float32)}


def test_every_letter_comes_back() -> None:
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


def test_ends_are_after_the_last_letter_alone() -> None:
    assert spell(" A b ", 6).tolist() == [2, 1, 3, 0, 0, 0]
    decoder = Letters(letter_space(6))
    assert decoder.latent_space == Space("tokens", (6,), vocabulary=1 + len(ALPHABET))
    assert decoder.text_of(written("a b", 6)) == "a b"
    assert decoder.text_of(written("", 6)) == ""
    white = decoder.decode(ops.zeros((1, 6), "int32"), {}, {})
    assert ops.convert_to_numpy(white).min() == 1.0


def test_what_cannot_be_written_is_named() -> None:
    with pytest.raises(DataError, match="'a red heart' has 11 letters, more than the length 10"):
        spell("a red heart", 10)
    with pytest.raises(DataError, match="'grün' has a letter 'ü'"):
        spell("grün", 10)
    for shape in ((HEIGHT, 3 * WIDTH, 3), (HEIGHT, 3 * WIDTH + 1, 1), (HEIGHT + 1, 3 * WIDTH, 1)):
        with pytest.raises(SpaceError, match=r"gray images of 11 x 6 pixels a letter.*'tokens/captions'"):
            Letters(Space("continuous", shape))


# ---- images as texts -----------------------------------------------------------------------------------------------


@pytest.mark.backends
class TestImages(EncoderConformance):
    inputs: ClassVar = ("3 1 2 0", "7 7", "2", "5 4 3 2 1 0")

    def build(self) -> Images:
        return Images(dim=16, depth=2, heads=2)

    @property
    def hard_inputs(self) -> list[str]:
        return [*self.inputs, "", "  \n", "9999999", "1\t2"]


def test_tokens_of_images(tmp_path: Path) -> None:
    encoder = Images(dim=8, depth=1, heads=2)
    with pytest.raises(ConfigError, match="adapt"):
        encoder.tokenize(["1"])
    encoder.adapt(["3 1 2", "0 4"])
    assert encoder.condition_space == kgen.ConditionSpace(3, 8)
    assert encoder.tokenize(["0 4 5", "", "2"])["ids"].tolist() == [[3, 7, 2], [1, 0, 0], [5, 0, 0]]
    with pytest.raises(ConfigError, match=r"'red heart' is not the tokens of an image.*'red' is no such.*kgen caption"):
        encoder.tokenize(["red heart"])
    with pytest.raises(ConfigError, match="has 4 tokens, but images have at most 3"):
        encoder.tokenize(["1 1 1 1"])
    with pytest.raises(DataError, match="cannot learn from these captions"):
        Images().adapt(["1 -2"])
    with pytest.raises(DataError, match="there are no captions"):
        Images().adapt([])
    with pytest.raises(RunError, match="cannot be read"):
        encoder.load_assets("/nowhere")
    for content in ("5", '{"vocabulary": 4}', '{"vocabulary": "4", "length": 3}', '{"vocabulary": -4, "length": 3}'):
        (tmp_path / "images.json").write_text(content)
        with pytest.raises(RunError, match=r"images\.json is damaged: "):
            encoder.load_assets(tmp_path)


def test_places_matter() -> None:
    encoder = Images(dim=8, depth=1, heads=2)
    encoder.adapt(["1 2 3"])
    pooled = ops.convert_to_numpy(encoder(encoder.tokenize(["1 2 3", "3 2 1"]))["pooled"])
    assert np.abs(pooled[0] - pooled[1]).max() > 1e-4


# ---- a dataset turned round ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("captioning")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGEN_CACHE", str(path / "cache"))
        yield path


@pytest.fixture(scope="module")
def codec(folder: Path) -> Path:
    """A run directory whose decoder makes tokens of 4 colors, which are given, not trained."""
    pipeline = kgen.assemble(
        encoder={"name": "tokens/images", "dim": 8, "depth": 1, "heads": 1},
        generator={"name": "tokens/ar", "network": {"width": 8, "depth": 1, "heads": 1}},
        decoder={"name": "tokens/palette-tokens", "colors": 4},
        image_space=Space("continuous", (16, 16, 3)),
        captions=["1"],
    )
    pipeline.decoder.palette.assign([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
    pipeline.save(folder / "codec" / "model")
    (folder / "codec" / "config.yaml").write_text("name: codec\n", encoding="utf-8")
    return folder / "codec"


class TestCaptions(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _codec(self, codec: Path) -> None:
        self.codec = codec

    def build(self) -> Captions:
        return Captions(of=SHAPES, codec=str(self.codec), length=LONGEST + 3)


class TestWording(MetricConformance):
    real: ClassVar = {"exact": (1.0, 1.0), "length": (1.0, 1.0), "letters": (1.0, 1.0)}
    noise: ClassVar = {"exact": (0.0, 0.0), "letters": (0.0, 0.2)}

    @pytest.fixture(autouse=True)
    def _codec(self, codec: Path) -> None:
        self.codec = codec

    def build(self) -> Wording:
        return Wording()

    def dataset(self) -> Captions:
        return Captions(of=SHAPES, codec=str(self.codec), length=LONGEST)


def test_the_pair_is_turned_round(codec: Path) -> None:
    made = Captions(of=SHAPES, codec=str(codec), length=LONGEST)
    before = kgen.make_dataset(SHAPES)
    decoder, _ = kgen.open_decoder(codec)
    for split in ("train", "validation", "holdout"):
        assert len(made.captions(split)) == len(before.captions(split))
        for index, text in enumerate(made.captions(split)):
            image = before.image(split, index)
            assert Letters(made.image_space).text_of(made.image(split, index)) == before.captions(split)[index]
            assert made.prompt_of(image) == text
            tokens = decoder.encode(ops.convert_to_tensor((image[None] / 127.5 - 1.0).astype(np.float32)))
            assert text == " ".join(map(str, ops.convert_to_numpy(tokens).reshape(-1).tolist()))
    assert made.prompt_space == before.image_space


def test_half_right_captions(codec: Path) -> None:
    made = Captions(of=SHAPES, codec=str(codec), length=LONGEST)
    images = np.stack([made.image("train", 0), written(made.wording("train", 1)[:-1] + "z", LONGEST)])
    scores = measure(Wording(), made, "train", [GeneratedImages(images, made.captions("train")[:2])])
    letters = len(made.wording("train", 1))
    assert scores == pytest.approx({"exact": 0.5, "length": 1.0, "letters": 1 - 0.5 / letters})
    images[1] = written(made.wording("train", 1)[:-1], LONGEST)
    scores = measure(Wording(), made, "train", [GeneratedImages(images, made.captions("train")[:2])])
    assert scores == pytest.approx({"exact": 0.5, "length": 0.5, "letters": 1 - 0.5 / letters})


def test_what_is_wrong_is_named(folder: Path, codec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"captions: 'a large .*' has \d+ letters, more than the length 20"):
        Captions(of=SHAPES, codec=str(codec), length=20)
    with pytest.raises(ConfigError, match=r"captions: codec: .*nowhere is not a run directory"):
        Captions(of=SHAPES, codec=str(folder / "nowhere"))
    with pytest.raises(ConfigError, match="is of images 16x16x3 continuous, but those to be captioned are 32x32x3"):
        Captions(of={**SHAPES, "size": 32}, codec=str(codec))
    with pytest.raises(ConfigError, match="unknown dataset 'shoes'"):
        Captions(of="shoes", codec=str(codec))
    spaces = Space("continuous", (16, 16, 3)), kgen.ConditionSpace(1, 4)
    monkeypatch.setattr(
        "kgen_plugin_tokens.captions.open_decoder", lambda run: (kgen.make_decoder("identity", *spaces), None)
    )
    with pytest.raises(ConfigError, match="the decoder of there makes 16x16x3 continuous, but captions are of tokens"):
        Captions(of=SHAPES, codec="there")


# ---- the whole way ---------------------------------------------------------------------------------------------------


def configuration(codec: Path, generator: str) -> RunConfig:
    steps, samples = ({"steps": 1}, {"samples": 2}) if generator == "tokens/nar" else ({}, {})
    return RunConfig.from_dict(
        {
            "name": "captioning",
            "data": {"name": "tokens/captions", "of": SHAPES, "codec": str(codec), "length": LONGEST},
            "encoder": {"name": "tokens/images", "dim": 8, "depth": 1, "heads": 1},
            "generator": {
                "name": generator,
                "length": "predicted",
                "network": {"width": 8, "depth": 1, "heads": 1},
            },
            "decoder": "tokens/letters",
            "fit": {"steps": 2, "batch_size": 4},
            "sample": {"every": 0, "options": steps},
            "evaluate": {"metrics": ["wording"], "max_prompts": 4, "likelihood": {"images": 2, "options": samples}},
        }
    )


def test_from_images_to_words(folder: Path, codec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "run"
    result = run(configuration(codec, "tokens/nar"), path, log=lambda text: None)
    assert {"wording exact", "wording length", "wording letters"} <= set(result.scores["holdout"])
    assert result.scores["validation"]["bits per dimension"] > 0
    pipeline, dataset = open_captioner(path)
    images = [dataset.images.image("train", index) for index in range(3)]
    texts = caption(pipeline, dataset, images, seed=3, steps=1)
    assert len(texts) == 3 and all(set(text) <= set(ALPHABET) for text in texts)
    assert caption(pipeline, dataset, images[1:2], seed=3, steps=1) == texts[1:2]  # whatever the batch
    files = [folder / f"{index}.png" for index in range(2)]
    for file, image in zip(files, images, strict=False):
        Image.fromarray(image).save(file)
    command(path, files, seed=3, settings=["steps=1"])
    assert capsys.readouterr().out == "".join(f"{f}: {t}\n" for f, t in zip(files, texts, strict=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kgen.runs.captioning.open_captioner", lambda run: (pipeline, dataset))  # as above, in less time
        command(path, files[:1], seed=3, settings=["steps=1"])
        assert capsys.readouterr().out == f"{texts[0]}\n"
        with pytest.raises(ConfigError, match="unknown key"):
            command(path, files, settings=["step=2"])


def test_runs_that_caption_nothing(folder: Path, codec: Path) -> None:
    other = folder / "other"
    shutil.copytree(codec, other)
    (other / "config.yaml").write_text(
        "data: {name: shapes, size: 16}\nencoder: tokens/images\ngenerator: tokens/ar\n"
        "decoder: tokens/pixel-tokens\nfit: {steps: 1}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match="texts that people write, its dataset is 'kgen/shapes'"):
        open_captioner(other)
    config = configuration(codec, "tokens/ar").to_yaml()
    (other / "config.yaml").write_text(config, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"decoder 'tokens/palette-tokens' of .* does not generate texts"):
        open_captioner(other)
    with pytest.raises(RunError, match="is not a run directory"):
        open_captioner(folder / "nowhere")
