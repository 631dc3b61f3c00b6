"""The numbers of `kgen embeddings`, on embeddings and images that are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kgen_plugin_unclip import embeddings_report as report
from kgen_plugin_unclip import measurement as module
from kgen_plugin_unclip.embeddings_command import _names, _pair
from kgen_plugin_unclip.embeddings_report import section
from kgen_plugin_unclip.measurement import Measured, Measurement, cosines

import kgen
from kgen import ConfigError

pytestmark = pytest.mark.portable

LENGTH = 3**0.5
OF_IMAGES = np.eye(3, dtype=np.float32) * LENGTH
OF_TEXTS = np.array([[0.6, 0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.6, 0.8]], np.float32)  # cosines 0.6, 0.6, 0.8
GRAYS = (0, 100, 200)


class Grays(kgen.Dataset):
    """Three gray images. The third is held out if `held`."""

    image_space = kgen.Space("continuous", (2, 2, 1))

    def __init__(self, *, held: bool = False) -> None:
        self.held = held

    def captions(self, split: kgen.Split) -> Sequence[str]:
        names = ["black", "gray", "white"]
        known = {"train": names[:2] if self.held else names, "holdout": names[2:] if self.held else []}
        return known.get(split, [])

    def image(self, split: kgen.Split, index: int) -> np.ndarray:
        return np.full((2, 2, 1), GRAYS[index + 2 * (split == "holdout")], np.uint8)


class Decoding:
    """Decodes an embedding to the image whose embedding is the nearest. The text "white" makes it the third image."""

    def __init__(self, decoder: Any, encoder: Any) -> None:
        self.seeds: list[int] = []
        self.decoded: list[np.ndarray] = []

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        return OF_IMAGES[np.searchsorted(GRAYS, images[:, 0, 0, 0])]

    def decode(self, embeddings: np.ndarray, *, n: int = 1, prompt: Any = None, seed: Any = 0, options: Any = None):
        assert options == {"steps": 7}
        self.seeds = seed
        self.decoded.append(embeddings)
        nearest = embeddings.argmax(axis=1)
        if prompt is not None:
            nearest = np.where(np.array(prompt) == "white", 2, nearest)
        images = np.array(GRAYS, np.uint8)[nearest]
        return np.broadcast_to(images[:, None, None, None, None], (len(images), n, 2, 2, 1))


def embed_texts(encoder: Any, texts: Sequence[str]) -> np.ndarray:
    return OF_TEXTS[[["black", "gray", "white"].index(text) for text in texts]]


@pytest.fixture
def measured_by(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "Variations", Decoding)
    for place in (module, report):
        monkeypatch.setattr(place, "embed_texts", embed_texts)

    def make(dataset: kgen.Dataset, metrics: Any = None, fields: tuple[str, ...] = ("caption",)) -> Measurement:
        priors = {0: OF_IMAGES, 1: OF_IMAGES[[1, 0, 2]]}  # the second exchanges two embeddings
        index = ["black", "gray", "white"].index

        def generate(captions: Sequence[str], *, seed: Sequence[int], output: str, steps: int) -> np.ndarray:
            assert (output, steps) == ("latents", 5)
            return np.stack([priors[one][index(caption)] for one, caption in zip(seed, captions, strict=True)])

        pipeline: Any = SimpleNamespace(decoder=None, encoder=SimpleNamespace(fields=fields), generate=generate)
        made = {"retrieval": kgen.make_metric("retrieval")} if metrics is None else metrics
        return Measurement(pipeline, dataset, made, {"steps": 5}, {"steps": 7})

    return make


def test_cosines_and_scores_of_each_source_and_seed(measured_by) -> None:
    measurement = measured_by(Grays())
    image, prior, text = measurement.run([0, 1], 10, lambda line: None)
    alone, read = "retrieval R@1, embedding alone", "retrieval R@1, with the text"
    assert [one.source for one in (image, prior, text)] == ["image", "prior", "text"]
    assert image.prompts == 3 and image.split == "train"
    for one, cosine, nearer, scores, with_text in (
        (image, (1, 1), (1, 1), (1, 1), (1, 1)),
        (prior, (1, 1 / 3), (1, 1 / 3), (1, 1 / 3), (1, 1 / 3)),
        (text, (2 / 3, 2 / 3), (0, 0), (1 / 3, 1 / 3), (1 / 3, 1 / 3)),
    ):
        np.testing.assert_allclose(one.values["cosine"], cosine, atol=1e-6)
        np.testing.assert_allclose(one.values["nearer than the text's"], nearer, atol=1e-6)
        np.testing.assert_allclose(one.values[alone], scores, atol=1e-6)
        np.testing.assert_allclose(one.values[read], with_text, atol=1e-6)
    noise = np.array(measurement.variations.seeds).reshape(3, 2, 3)
    assert len(set(noise[0].ravel())) == 6 and (noise == noise[:1]).all()  # the sources share it


def test_seen_and_held_out_prompts_are_measured_apart(measured_by) -> None:
    found: list[Measured] = measured_by(Grays(held=True)).run([0], 1, lambda line: None)
    assert [(one.split, one.prompts) for one in found] == [("train", 1)] * 3 + [("holdout", 1)] * 3
    np.testing.assert_allclose(found[-1].values["cosine"], [0.8], atol=1e-6)


def test_what_cannot_be_measured(measured_by) -> None:
    with pytest.raises(ConfigError, match="--metric retrieval"):
        measured_by(Grays(), metrics={})
    with pytest.raises(ConfigError, match="prompts that are texts"):
        measured_by(Grays(), fields=("image",))


def test_the_two_images_of_the_report_have_different_captions() -> None:
    captions = ["black", "gray", "white", "black"]
    assert _pair(captions, None, None) == (0, 2) and _pair(captions, "white", None) == (2, 3)
    assert _pair(captions, "gray", "black") == (1, 0) and _pair(captions, None, "black") == (1, 0)
    with pytest.raises(ConfigError, match="--to 'grey': no training image has this caption; one of them is 'black'"):
        _pair(captions, None, "grey")
    with pytest.raises(ConfigError, match="all training images have the same caption"):
        _pair(["black", "black"], None, None)


def test_metrics_of_the_same_name_are_all_measured() -> None:
    names = ["kgen/retrieval", "mine/score", "clip/score"]
    assert _names(names) == ["retrieval", "mine/score", "clip/score"]


def test_cosines_ignore_the_length() -> None:
    first = np.array([[[3.0, 4.0], [0.0, 2.0]], [[0.0, 0.0], [-5.0, 0.0]]])
    np.testing.assert_allclose(cosines(first, np.array([[1.0, 0.0], [9.0, 0.0]])), [[0.6, 0.0], [0.0, -1.0]])


def test_the_section_says_what_was_measured(measured_by, tmp_path: Path) -> None:
    measurement = measured_by(Grays())
    measured = measurement.run([0, 1], 10, lambda line: None)
    made = section(
        measurement, measured, {"seeds": 2, "options": {"steps": 5}, "decoder": {"steps": 7}}, (0, 2), tmp_path
    )
    assert made.head[3] == "cosine" and made.rows[1][:4] == ["seen", "3", "of the prior", "0.667 ± 0.333"]
    assert 'prior: {"steps": 5}; of the decoder: {"steps": 7}' in made.text[1]
    assert sorted(path.name for path in (tmp_path / "sections").iterdir()) == sorted(made.images)
    varied, between, changed = measurement.variations.decoded[-3:]
    np.testing.assert_array_equal(varied, OF_IMAGES[[0, 2]])
    np.testing.assert_allclose(between[[0, 4]], OF_IMAGES[[0, 2]], atol=1e-6)  # from the first to the second
    np.testing.assert_allclose(between[2], (OF_IMAGES[0] + OF_IMAGES[2]) / 2**0.5, atol=1e-6)  # spherical
    np.testing.assert_allclose(changed[0], OF_IMAGES[0], atol=1e-6)
    towards = changed @ (OF_TEXTS[2] - OF_TEXTS[0])  # from the text of the first to that of the second
    assert (np.diff(towards) > 0).all()
    assert "'black'" in made.images["blend.png"] and "'white'" in made.images["blend.png"]
