"""Every encoder with every generator with every decoder: what fits trains and draws, what does not is refused."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest

import kgen
from kgen.backend.compiled import Compiled
from kgen.parts.construction import make_encoder
from kgen.plugins.discovery import component_id, registry

pytestmark = pytest.mark.portable

SPACE = kgen.Space("continuous", (4, 4, 3))
SPACES = {
    "captioning/letters": kgen.Space("continuous", (11, 24, 1)),
    "tokens/palette-tokens": kgen.Space("continuous", (2, 2, 3)),  # each pixel, or value of one, is a token to draw
    "tokens/pixel-tokens": kgen.Space("continuous", (2, 2, 3)),
}
"""Of the images, where they are no ordinary ones."""
CAPTIONS = ["red heart", "blue circle", "red circle", "blue heart"]
IMAGES = list(np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8))
"""Images, which an encoder reads in place of captions."""
TOKENS = [np.array(row) for row in ([3, 1], [0, 2, 2], [3, 2], [0, 1, 2])]
"""Tokens of images, which an encoder reads in place of captions."""

KERAS_HUB_TESTS = Path(__file__).parents[1] / "plugins" / "kgen-plugin-keras-hub" / "tests" / "conftest.py"

ENCODERS: dict[str, dict[str, Any]] = {
    "text/bag": {"dim": 8},
    "text/class": {"dim": 8},
    "text/label": {"dim": 8},
    "text/none": {},
    "text/transformer": {"dim": 8, "depth": 1, "heads": 2, "vocabulary": 300, "length": 8},
    "keras-hub/bert": {"length": 8},
    "keras-hub/clip-text": {"length": 8},
    "keras-hub/t5": {"length": 8},
    "captioning/tokens": {"dim": 8, "depth": 1, "heads": 1},
    "clip/clip": {
        "text": {"kind": "transformer", "width": 8, "depth": 1, "heads": 2, "length": 8},
        "image": {"kind": "convolutional", "size": 8, "width": 4, "multipliers": [1]},
        "dim": 8,
    },
}
ENCODERS |= {"clip/image": ENCODERS["clip/clip"], "vision/patches": {"patch": 4, "dim": 8, "depth": 1, "heads": 2}}
ELSEWHERE = {
    "kgen/joint",
    "clip/text",
    "diffusers/autoencoder-kl",
    "diffusers/class-label",
    "diffusers/vq-model",
    "keras-cv/clip-text",
    "keras-cv/stable-diffusion",
    "keras-cv/vae",
    "keras-hub/clip-image",
    "keras-hub/dinov2",
    "keras-hub/sd3",
    "keras-hub/sd3-text",
    "keras-hub/sd3-vae",
    "keras-hub/siglip-image",
    "unclip/decoder",
    "unclip/prior",
    "unclip/ar-prior",
}
"""An encoder of several, parts that are large or read files, a decoder that needs an encoder of images, and generators
of its latents, which are vectors. Their tests train them with other parts."""

TRANSFORMER = {"width": 8, "depth": 1, "heads": 2}
GENERATORS: dict[str, dict[str, Any]] = {
    "diffusion/diffusion": {"network": {"kind": "dit", "patch": 2, "width": 8, "depth": 1, "heads": 2}},
    "gan/gan": {"width": 4, "multipliers": [1], "latent_dim": 4, "features": 4},
    "realnvp/realnvp": {"coupling": {"kind": "convolutional", "scales": 1, "couplings": 2, "width": 4}},
    "tokens/ar": {"network": TRANSFORMER},
    "tokens/ar-nar": {"network": TRANSFORMER, "draft": TRANSFORMER},
    "tokens/nar": {"network": TRANSFORMER},
    "vae/vae": {"network": {"width": 4, "multipliers": [1], "attention": []}},
}
CODEC = {"width": 4, "multipliers": [1], "patch": 2, "attention": False}
UPSCALER = {"width": 4, "multipliers": [1], "blocks": 1, "head_dim": 4}
DECODERS: dict[str, dict[str, Any]] = {
    "kgen/identity": {},
    "codecs/kl-autoencoder": {"channels": 2, "network": CODEC},
    "codecs/vq-autoencoder": {"quantizer": {"kind": "fsq", "levels": [3, 3]}, "network": CODEC},
    "superres/regression": {"factor": 2, "width": 4, "blocks": 1},
    "superres/diffusion": {"factor": 2, "network": UPSCALER},
    "superres/cascade": {"decoders": [{"name": "superres/regression", "factor": 2, "width": 4, "blocks": 1}]},
    "captioning/letters": {},
    "tokens/palette-tokens": {"colors": 4},
    "tokens/pixel-tokens": {},
}
OF_TOKENS = {"codecs/vq-autoencoder", "captioning/letters", "tokens/palette-tokens", "tokens/pixel-tokens"}
NO_GRID = ("tokens/ar-nar", "captioning/letters")
"""Fits by its kind, but a draft is of a grid, and letters are a sequence."""
OPTIONS: dict[str, dict[str, Any]] = {
    name: {"steps": 1} for name in ("diffusion/diffusion", "tokens/ar-nar", "tokens/nar")
}
DECODE: dict[str, dict[str, Any]] = {"superres/diffusion": {"steps": 1}}


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Options of an encoder; those of keras-hub are tiny models that its own tests make."""
    made: dict[str, Path] = {}

    def options(encoder: str) -> dict[str, Any]:
        if not encoder.startswith("keras-hub/"):
            return ENCODERS[encoder]
        pytest.importorskip("keras_hub")
        if encoder not in made:
            fixture = {"bert": "bert_folder", "clip-text": "tower_folder", "t5": "t5_folder"}[encoder.partition("/")[2]]
            make = getattr(_load(KERAS_HUB_TESTS), fixture).__wrapped__
            made[encoder] = make(tmp_path_factory)
        return {**ENCODERS[encoder], "preset": str(made[encoder])}

    return options


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("keras_hub_conftest", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def encoder_of(presets: Callable[[str], dict[str, Any]]) -> Callable[[str], kgen.Encoder]:
    """Each encoder, made once."""

    @functools.cache
    def make(encoder: str) -> kgen.Encoder:
        keras.utils.set_random_seed(0)
        made = make_encoder({"name": encoder, **presets(encoder)}, captions_of(encoder))
        if encoder == "clip/image":
            made.text_tower.adapt(CAPTIONS)  # which a run does with the weights of a trained model
        return made

    return make


def captions_of(encoder: str) -> list[Any]:
    if encoder in ("clip/image", "vision/patches"):
        return IMAGES
    return TOKENS if encoder == "captioning/tokens" else CAPTIONS


def images_of(decoder: str) -> np.ndarray:
    """uint8 (4, H, W, C)."""
    shape = SPACES.get(decoder, SPACE).shape
    return np.random.default_rng(0).integers(0, 256, (4, *shape)).astype(np.uint8)


@functools.cache
def decoder_of(name: str, condition_space: kgen.ConditionSpace) -> kgen.Decoder:
    """Each decoder, made once for each kind of text."""
    spaces = {"image_space": SPACES.get(name, SPACE), "condition_space": condition_space}
    return kgen.make_decoder({"name": name, **DECODERS[name]}, **spaces)


def values(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


EAGER = keras.backend.backend() != "jax"
"""Compiling a program for each triple would take most of the time; but JAX would compile each operation instead."""


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    if EAGER:
        monkeypatch.setattr(Compiled, "compile", lambda self, **given: keras.Model.compile(self, run_eagerly=True))


def test_the_matrix_has_every_component() -> None:
    for kind, tiny in (("encoder", ENCODERS), ("generator", GENERATORS), ("decoder", DECODERS)):
        assert {component.id for component in registry().of_kind(kind)} - ELSEWHERE == set(tiny), kind


def fits(generator: str, decoder: str) -> bool:
    """Generators of tokens fit decoders of tokens, and those of numbers fit those of numbers."""
    return generator.startswith("tokens/") == (decoder in OF_TOKENS) and (generator, decoder) != NO_GRID


Triple = tuple[str, str, str]


def neighbors(triple: Triple) -> set[Any]:
    """The pairs of parts that touch: the condition goes to the generator, the latent to the decoder."""
    encoder, generator, decoder = triple
    return {(encoder, generator), (generator, decoder)}


def covering(triples: list[Triple], parts: Callable[[Triple], set[Any]]) -> list[Triple]:
    """Triples that hold all that any of them holds, chosen greedily: the one with most that is yet to come."""
    missing = set().union(*map(parts, triples))
    chosen = []
    while missing:
        best = max(triples, key=lambda triple: len(parts(triple) & missing))
        chosen.append(best)
        missing -= parts(best)
    return chosen


EVERY = [triple for triple in itertools.product(ENCODERS, GENERATORS, DECODERS) if fits(*triple[1:])]
FEW = covering(EVERY, neighbors)
"""Every two neighbors meet: enough for each change."""
BACKENDS = [
    ("text/bag", "diffusion/diffusion", "kgen/identity"),
    ("text/class", "vae/vae", "codecs/kl-autoencoder"),
]
"""Images, and latents of an autoencoder: enough for another backend, on which the parts' own tests run as well."""


def marked(triple: Triple) -> Any:
    if triple in BACKENDS:
        return pytest.param(*triple, marks=pytest.mark.backends)
    return pytest.param(*triple, marks=() if triple in FEW else pytest.mark.slow)


def test_every_pair_of_neighbors_is_tested_for_each_change() -> None:
    met = set().union(*map(neighbors, FEW))
    for generator in GENERATORS:
        assert {encoder for encoder, other in met if other == generator} == set(ENCODERS)
        fitting = {decoder for decoder in DECODERS if fits(generator, decoder)}
        assert fitting and {decoder for other, decoder in met if other == generator} == fitting
    assert len(FEW) == len(ENCODERS) * len(GENERATORS)  # no more than it takes to meet every encoder
    assert set(BACKENDS) <= set(EVERY)


@pytest.mark.parametrize(
    "encoder, generator, decoder",
    [marked(triple) for triple in EVERY],
)
def test_components_that_fit(
    encoder: str, generator: str, decoder: str, encoder_of: Callable[[str], kgen.Encoder]
) -> None:
    """It trains, which changes the generator and not the decoder, and draws."""
    keras.utils.set_random_seed(0)
    reader = encoder_of(encoder)
    drawer = decoder_of(decoder, reader.condition_space)
    pipeline = kgen.assemble(encoder=reader, generator={"name": generator, **GENERATORS[generator]}, decoder=drawer)
    assert component_id(pipeline.generator) == generator
    pipeline.compile(keras.optimizers.SGD(0.1), run_eagerly=EAGER)
    learned, frozen = values(pipeline.generator.trainable_variables), values(drawer.variables)
    logs = pipeline.train_on_batch(pipeline.inputs(images_of(decoder), captions_of(encoder)), return_dict=True)
    after = values(pipeline.generator.trainable_variables)
    assert np.isfinite(logs["loss"]) and all(np.isfinite(array).all() for array in after)
    assert not same(learned, after)
    assert same(frozen, values(drawer.variables))
    prompt, options = captions_of(encoder)[2], OPTIONS.get(generator, {})
    images = pipeline.generate(prompt, n=2, decoder=DECODE.get(decoder, {}), **options)
    assert images.shape == (2, *drawer.image_space.shape) and images.dtype == np.uint8


@pytest.mark.parametrize("encoder", ENCODERS)
def test_components_that_do_not_fit_are_refused_by_name(
    encoder: str, encoder_of: Callable[[str], kgen.Encoder]
) -> None:
    reader = encoder_of(encoder)
    for generator, decoder in itertools.product(GENERATORS, DECODERS):
        if fits(generator, decoder):
            continue
        parts = {"encoder": reader, "generator": {"name": generator, **GENERATORS[generator]}}
        reason = "needs a grid of at least" if (generator, decoder) == NO_GRID else f"'{generator}' .* '{decoder}'"
        with pytest.raises(kgen.SpaceError, match=reason):
            kgen.assemble(**parts, decoder=decoder_of(decoder, reader.condition_space))


def test_letters_fit_only_images_of_letters() -> None:
    with pytest.raises(kgen.SpaceError, match=r"'letters' needs gray images of .* but the images are 4x4x3"):
        kgen.make_decoder("letters", SPACE, kgen.ConditionSpace(3, 8))
