"""The conformance kit: passes components that are right, and fails each that breaks one rule."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any, ClassVar

import keras
import numpy as np
import pytest
from gaussian import Gaussian
from keras import ops
from pydantic import Field

import kgen
from kgen import ConditionSpace, Space
from kgen.decoders import Identity
from kgen.testing import (
    DatasetConformance,
    DecoderConformance,
    EncoderConformance,
    GeneratorConformance,
    MetricConformance,
    gradients,
)

SPACE = Space("continuous", (4, 4, 3))
CONDITIONS = ConditionSpace(5, 8)


class Letters(kgen.Encoder):
    """Learns one vector a letter; pooled by their mean."""

    def __init__(self, dim: int = 8, length: int = 12, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.length = length
        self.alphabet = ""

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(self.length, self.dim)

    def adapt(self, texts: Any) -> None:
        self.alphabet = "".join(sorted(set("".join(texts))))

    def build(self, input_shape: Any = None) -> None:
        self.embedding = keras.layers.Embedding(len(self.alphabet) + 2, self.dim)

    def tokenize(self, texts: Any) -> dict[str, np.ndarray]:
        ids = np.zeros((len(texts), self.length), np.int32)  # (B, L): 0 pads, 1 begins, as it does the empty text
        ids[:, 0] = 1
        for row, text in zip(ids, texts, strict=True):
            known = [self.alphabet.index(letter) + 2 for letter in text if letter in self.alphabet]
            row[1 : 1 + len(known)] = known[: self.length - 1]
        return {"ids": ids}

    def call(self, tokens: Any, training: bool = False) -> dict[str, Any]:
        sequence = self.embedding(tokens["ids"])  # (B, L, D)
        mask = ops.cast(tokens["ids"] != 0, "float32")  # (B, L)
        weights = ops.cast(mask, sequence.dtype)[..., None]
        pooled = ops.sum(sequence * weights, axis=1) / ops.sum(weights, axis=1)  # (B, D)
        return {"sequence": sequence, "mask": mask, "pooled": pooled}

    def save_assets(self, path: Any) -> None:
        (Path(path) / "alphabet.json").write_text(json.dumps(self.alphabet))

    def load_assets(self, path: Any) -> None:
        self.alphabet = json.loads((Path(path) / "alphabet.json").read_text())


class Halves(kgen.Decoder):
    """A trained decoder: half as many numbers, linear both ways."""

    def __init__(self, image_space: Space, size: int = 24, **kwargs: Any) -> None:
        super().__init__(image_space, **kwargs)
        self.size = size
        self.down = keras.layers.Dense(size)
        self.up = keras.layers.Dense(image_space.size)

    @property
    def latent_space(self) -> Space:
        return Space("continuous", (self.size,))

    def encode(self, images: Any) -> Any:
        return self.down(ops.reshape(images, (-1, self.image_space.size)))

    def decode(self, latent: Any, condition: Any, noise: Any) -> Any:
        return ops.reshape(self.up(latent), (-1, *self.image_space.shape))

    def compute_losses(self, images: Any, condition: Any, training: bool) -> dict[str, Any]:
        error = ops.square(ops.cast(self.decode(self.encode(images), condition, {}), "float32") - images)
        return {"loss": ops.mean(error, axis=(1, 2, 3))}


class Flow(kgen.Generator):
    """Flow matching (Lipman et al. 2023) with a linear velocity, guided, integrated by Euler's method."""

    guidable = True

    def __init__(self, space: Space, condition_space: ConditionSpace, **kwargs: Any) -> None:
        super().__init__(space, condition_space, **kwargs)
        self.seeds = kgen.SeedGenerator(0)
        self.velocity = keras.layers.Dense(space.size, dtype="float32")

    def at(self, x: Any, t: Any, condition: Any) -> Any:
        flat = ops.reshape(x, (-1, self.space.size))
        made = self.velocity(ops.concatenate([flat, t, ops.cast(condition["pooled"], "float32")], axis=1))
        return ops.reshape(made, (-1, *self.space.shape))

    def compute_losses(self, x: Any, condition: Any, training: bool) -> dict[str, Any]:
        noise = keras.random.normal(ops.shape(x), seed=self.seeds)
        t = keras.random.uniform((ops.shape(x)[0], 1), seed=self.seeds)
        share = t[:, :, None, None]  # (B, 1, 1, 1)
        made = self.at((1 - share) * noise + share * x, t, condition)
        return {"loss": ops.mean(ops.square(made - (x - noise)), axis=(1, 2, 3))}

    def noise_spec(self, steps: int = 4, guidance: float = 1.5) -> dict[str, Any]:
        return {"start": kgen.NoiseSpec("normal", self.space.shape)}

    def generate(
        self,
        condition: Any,
        null_condition: Any,
        noise: Any,
        steps: Annotated[int, Field(ge=1)] = 4,
        guidance: float = 1.5,
    ) -> Any:
        x = noise["start"]
        for step in range(steps):
            t = ops.full((ops.shape(x)[0], 1), step / steps)
            plain, null = self.at(x, t, condition), self.at(x, t, null_condition)
            x = x + self.direction * (null + guidance * (plain - null)) / steps
        return x

    direction = 1.0


class PCA(kgen.Decoder):
    """Principal components, scaled to unit variance: without losses, but calibrated."""

    def __init__(self, image_space: Space, components: int = 6, **kwargs: Any) -> None:
        super().__init__(image_space, **kwargs)
        self.components = components

    def build(self, input_shape: Any = None) -> None:
        shapes = {"mean": (self.image_space.size,), "basis": (self.image_space.size, self.components)}
        for name, shape in {**shapes, "scale": (self.components,)}.items():
            setattr(self, name, self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False))

    @property
    def latent_space(self) -> Space:
        return Space("continuous", (self.components,), bounded=False)

    def calibrate(self, batches: Any) -> None:
        x = np.concatenate([batch.reshape(len(batch), -1) / 127.5 - 1.0 for batch in batches])
        _, sizes, basis = np.linalg.svd(x - x.mean(0), full_matrices=False)
        self.mean.assign(x.mean(0))
        self.basis.assign(basis[: self.components].T)
        self.scale.assign(sizes[: self.components] / len(x) ** 0.5)

    def encode(self, images: Any) -> Any:
        x = ops.reshape(images, (-1, self.image_space.size)) - self.mean
        return ops.matmul(x, self.basis) / ops.maximum(self.scale, 1e-6)

    def decode(self, latent: Any, condition: Any, noise: Any) -> Any:
        x = ops.matmul(latent * self.scale, ops.transpose(self.basis)) + self.mean
        return ops.reshape(x, (-1, *self.image_space.shape))


class Colours(kgen.Dataset):
    """Pictures of one colour each."""

    def __init__(self, size: int = 4) -> None:
        self.size = size

    @property
    def image_space(self) -> Space:
        return Space("continuous", (self.size, self.size, 3))

    def captions(self, split: str) -> list[str]:
        return {"train": ["red", "green", "blue"], "validation": [], "holdout": ["white"]}[split]

    def image(self, split: str, index: int) -> np.ndarray:
        colour = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
        caption = self.captions(split)[index]
        return np.broadcast_to(np.array(colour[caption], np.uint8), self.image_space.shape).copy()


class Exact(kgen.Metric):
    """Share of pixels as in the first training picture of the prompt."""

    def __call__(self, images: Any, prompts: Any, split: Any, dataset: Any) -> dict[str, float]:
        captions = list(dataset.captions(split))
        real = np.stack([dataset.image(split, captions.index(prompt)) for prompt in prompts])
        return {"exact": float((real == images).mean())}


# ---- what is right passes -------------------------------------------------------------------------------------------


@pytest.mark.backends
class TestGaussian(GeneratorConformance):
    generate_options = ({}, {"temperature": 0.5})

    def build(self) -> Gaussian:
        return Gaussian(SPACE, CONDITIONS, least_scale=0.1)


@pytest.mark.backends
class TestFlow(GeneratorConformance):
    fit_steps = 120

    def build(self) -> Flow:
        return Flow(SPACE, CONDITIONS)


@pytest.mark.backends
class TestPCA(DecoderConformance):
    def build(self) -> PCA:
        return PCA(SPACE, components=6)


@pytest.mark.backends
class TestLetters(EncoderConformance):
    def build(self) -> Letters:
        return Letters(dim=6)


class TestIdentity(DecoderConformance):
    reconstruction = 0.0

    def build(self) -> Identity:
        return Identity(SPACE)


@pytest.mark.backends
class TestHalves(DecoderConformance):
    def build(self) -> Halves:
        return Halves(SPACE, size=24)


class TestColours(DatasetConformance):
    def build(self) -> Colours:
        return Colours()


class TestExact(MetricConformance):
    real: ClassVar = {"exact": (1.0, 1.0)}
    noise: ClassVar = {"exact": (0.0, 0.1)}

    def build(self) -> Exact:
        return Exact()

    def dataset(self) -> Colours:
        return Colours()


# ---- what is wrong fails --------------------------------------------------------------------------------------------


def fails(kit: type[Any], check: str, build: Any, match: str, **attributes: Any) -> None:
    """Asserts that one check of a kit fails for a component, with a message that says why."""
    keras.utils.set_random_seed(0)
    case = type("Case", (kit,), {"build": lambda self: build(), **attributes})()
    with (
        pytest.raises((AssertionError, ValueError), match=match),
        warnings.catch_warnings(),
    ):  # Keras may refuse it first
        warnings.simplefilter("ignore")  # Keras warns of weights without gradient
        getattr(case, check)()


def hoarding(self: Any, *args: Any, **kwargs: Any) -> None:
    """Has a layer that it does not use to draw."""
    super(type(self), self).__init__(*args, **kwargs)
    self.spare = keras.layers.Dense(3, name="spare")


def gaussian(**members: Any) -> Any:
    """A Gaussian of which some members are replaced by broken ones."""
    broken = type("Broken", (Gaussian,), members)
    return lambda: broken(SPACE, CONDITIONS)


def forgetting(self: Any, space: Any, condition_space: Any, *, width: int = 8, **kwargs: Any) -> None:
    Gaussian.__init__(self, space, condition_space, **kwargs)


def changing(self: Any, space: Any, condition_space: Any, *, width: int = 8, **kwargs: Any) -> None:
    Gaussian.__init__(self, space, condition_space, **kwargs)
    self.width = 2 * width


def untyped(self: Any, space: Any, condition_space: Any, *, width=8, **kwargs: Any) -> None:  # type: ignore[no-untyped-def]
    Gaussian.__init__(self, space, condition_space, **kwargs)
    self.width = width


def averaging(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    losses = -self.log_likelihood(x, condition)
    return {"loss": ops.zeros_like(losses) + ops.mean(losses)}


def reduced(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    return {"loss": ops.mean(self.log_likelihood(x, condition))}


def blind(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    return {"loss": -self.log_likelihood(ops.zeros_like(x), condition)}


def deaf(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    return {"loss": -self.log_likelihood(x, {"pooled": ops.zeros_like(condition["pooled"])})}


def half_trained(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    mean, scale = self.normal(condition)
    return {"loss": ops.mean(ops.square(x - mean), axis=(1, 2, 3)) + 0 * ops.mean(scale, axis=(1, 2, 3))}


def climbing(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    return {"loss": ops.tanh(self.log_likelihood(ops.stop_gradient(x), condition)) * 0 + 1}


def infinite(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    return {"loss": ops.log(self.log_likelihood(x, condition) * 0)}


def late(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    if training:
        self.more = keras.layers.Dense(1)
        self.more(condition["pooled"])
    return Gaussian.compute_losses(self, x, condition, training)


def counting(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    self.seen.assign(self.seen + ops.mean(x))  # of its own part of the batch
    return Gaussian.compute_losses(self, x, condition, training)


def counted(self: Any, space: Any, condition_space: Any) -> None:
    Gaussian.__init__(self, space, condition_space)
    self.seen = self.add_weight(name="seen", shape=(), initializer="zeros", trainable=False)


def mixing(self: Any, condition: Any, null_condition: Any, noise: Any) -> Any:
    x = Gaussian.generate(self, condition, null_condition, noise)
    return x - ops.mean(x, axis=0, keepdims=True)


def moody(self: Any, condition: Any, null_condition: Any, noise: Any) -> Any:
    if not hasattr(self, "seeds"):
        raise AssertionError("make it with `seeded`")
    x = Gaussian.generate(self, condition, null_condition, noise)
    return x + keras.random.normal(ops.shape(x), seed=self.seeds)


def seeded(self: Any, space: Any, condition_space: Any) -> None:
    Gaussian.__init__(self, space, condition_space)
    self.seeds = kgen.SeedGenerator(0)


def still(self: Any, condition: Any, null_condition: Any, noise: Any) -> Any:
    return self.normal(condition)[0]


def flat(self: Any, condition: Any, null_condition: Any, noise: Any) -> Any:
    return ops.reshape(self.normal(condition)[0], (-1, self.space.size))


def lazy(self: Any, condition: Any, null_condition: Any, noise: Any) -> Any:
    if not hasattr(self, "late"):
        self.late = keras.Variable(1.0)
    return Gaussian.generate(self, condition, null_condition, noise) * self.late


def careless(self: Any, condition: Any, null_condition: Any, noise: Any, **options: Any) -> Any:
    return Gaussian.generate(self, condition, null_condition, noise)


def demanding(self: Any, condition: Any, null_condition: Any, noise: Any, steps: int) -> Any:
    return Gaussian.generate(self, condition, null_condition, noise)


def unguided(self: Any, condition: Any, null_condition: Any, noise: Any, guidance: float = 1.0) -> Any:
    return Gaussian.generate(self, condition, null_condition, noise)


def half(self: Any, condition: Any, null_condition: Any, noise: Any) -> Any:
    return ops.cast(Gaussian.generate(self, condition, null_condition, noise), "float16")


def keeping_layers(self: Any, space: Any, condition_space: Any, *, widths: tuple[int, ...] = (3,)) -> None:
    Gaussian.__init__(self, space, condition_space)
    self.widths = [keras.layers.Dense(width) for width in widths]


def hidden(self: Any, space: Any, condition_space: Any) -> None:
    Gaussian.__init__(self, space, condition_space)
    object.__setattr__(self, "secret", keras.Variable(np.ones(1, "float32")))


def with_secret(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    return {"loss": Gaussian.compute_losses(self, x, condition, training)["loss"] * self.secret[0]}


def constant_gradient(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    total = sum(ops.sum(weight) for weight in [*self.mean.weights, *self.scale.weights])
    return {
        "loss": ops.zeros((ops.shape(x)[0],)) + total + 0 * Gaussian.compute_losses(self, x, condition, False)["loss"]
    }


def standardized(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    spread = ops.sqrt(ops.var(x, axis=(1, 2, 3)))
    return {"loss": Gaussian.compute_losses(self, x, condition, training)["loss"] / spread}


def rough(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    """Of which the gradient is not finite where what is reconstructed is right."""
    error = ops.sum(ops.square(ops.stop_gradient(x - x) * self.normal(condition)[0]), axis=(1, 2, 3))
    loss = Gaussian.compute_losses(self, x, condition, training)["loss"]
    flat = ops.cast(ops.var(x, axis=(1, 2, 3)) < 1e-6, "float32")
    return {"loss": loss + flat * ops.sqrt(error)}


def narrow_losses(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    loss = Gaussian.compute_losses(self, x, condition, training)["loss"]
    return {"loss": ops.cast(loss, self.compute_dtype)}


def wrong_sign(self: Any, x: Any, condition: Any) -> Any:
    return -Gaussian.log_likelihood(self, x, condition)


def wrong_sign_losses(self: Any, x: Any, condition: Any, training: bool) -> dict[str, Any]:
    return {"loss": -Gaussian.log_likelihood(self, x, condition) / self.space.size}


def indifferent(self: Any, condition: Any, null_condition: Any, noise: Any) -> Any:
    return noise["normal"]


def branching(self: Any, condition: Any, null_condition: Any, noise: Any, temperature: float = 1.0) -> Any:
    x = Gaussian.generate(self, condition, null_condition, noise)
    return x if temperature > 0.5 else 0.5 * x


def summed(self: Any, x: Any, condition: Any) -> Any:
    density = Gaussian.log_likelihood(self, x, condition)
    return density * 0 + ops.sum(density)


GENERATORS = [
    ("test_options_are_attributes", {"__init__": forgetting}, "no attribute of that name"),
    ("test_rebuilds_from_configuration", {"__init__": changing}, "another one"),
    ("test_signature_is_typed", {"__init__": untyped}, "has no type"),
    ("test_accepts_its_space", {"accepts": ("tokens",)}, "lacks the kind"),
    ("test_losses_do_not_mix_examples", {"compute_losses": averaging}, "other examples of the batch"),
    ("test_data_and_condition_matter", {"compute_losses": blind}, "data are not used"),
    ("test_losses_are_finite_and_per_example", {"compute_losses": reduced}, "one number an example"),
    ("test_losses_are_finite_and_per_example", {"compute_losses": infinite}, "not finite"),
    ("test_data_and_condition_matter", {"compute_losses": deaf}, "condition is not used"),
    ("test_every_weight_has_a_gradient", {"compute_losses": half_trained}, "does not depend on"),
    ("test_no_weights_appear_late", {"compute_losses": late}, "creates weights"),
    ("test_overfits_one_batch", {"compute_losses": climbing}, "must fall"),
    ("test_alone_as_in_a_batch", {"generate": mixing}, "alone and in a batch"),
    ("test_same_noise_same_sample", {"generate": moody, "__init__": seeded}, "makes another sample"),
    ("test_other_noise_other_sample", {"generate": still}, "from other noise"),
    ("test_generates_what_the_space_says", {"generate": flat}, "must make"),
    ("test_generates_what_the_space_says", {"generate": lazy}, "creates weights|Variable"),
    ("test_generates_what_the_space_says", {"__init__": hoarding}, "has not built .*spare"),
    ("test_generate_options", {"generate": careless}, "misspelt"),
    ("test_generate_options", {"generate": demanding}, "no default"),
    ("test_guidance_as_declared", {"guidable": True}, "does not take"),
    ("test_guidance_as_declared", {"guidable": True, "generate": unguided}, "whatever the guidance"),
    ("test_guidance_as_declared", {"generate": unguided}, "takes 'guidance'"),
    ("test_likelihood_as_declared", {"likelihood": None}, "implemented"),
    ("test_likelihood_as_declared", {"log_likelihood": summed}, "mixes"),
    ("test_generates_what_the_space_says", {"generate": half}, "must make float32, not float16"),
    ("test_generate_options", {"noise_spec": lambda self: {}}, "must take the options of generate"),
    ("test_condition_and_null_condition_matter", {"generate": indifferent}, "whatever the condition"),
    ("test_configuration_is_plain_data", {"__init__": keeping_layers}, "holds a Dense, but 'widths' is an option"),
    ("test_kgen_knows_its_weights_and_seeds", {"__init__": hidden, "compute_losses": with_secret}, "not among its own"),
    ("test_data_and_condition_matter", {"compute_losses": constant_gradient}, "data are not used"),
    ("test_losses_of_flat_data_are_finite", {"compute_losses": standardized}, "not finite"),
    ("test_losses_of_flat_data_are_finite", {"compute_losses": rough}, "gradient of weight .* is not finite"),
    ("test_mixed_precision", {"compute_losses": narrow_losses}, "must be float32, not bfloat16"),
    (
        "test_samples_come_near_what_it_learned",
        {"log_likelihood": wrong_sign, "compute_losses": lambda self, *a: {"loss": wrong_sign(self, *a[:2])}},
        "it must rise",
    ),
]


def flow(**members: Any) -> Any:
    return lambda: type("Broken", (Flow,), members)(SPACE, CONDITIONS)


def impatient(self: Any, condition: Any, null_condition: Any, noise: Any, steps: int = 4, guidance: float = 1.5) -> Any:
    times = [1.0, 0.75, 0.5, 0.25][:steps]
    assert times[3] == 0.25
    return Flow.generate(self, condition, null_condition, noise, steps, guidance)


def unconditioned(self: Any, condition: Any, null: Any, noise: Any, steps: int = 4, guidance: float = 1.5) -> Any:
    return Flow.generate(self, condition, condition, noise, steps, guidance)


def with_keras_seeds(self: Any, space: Any, condition_space: Any) -> None:
    Flow.__init__(self, space, condition_space)
    self.seeds = keras.random.SeedGenerator(0)


FLOWS = [
    ("test_takes_any_number_of_steps", {"generate": impatient}, "steps=1.* fails: IndexError"),
    ("test_samples_come_near_what_it_learned", {"direction": -1.0}, "must come nearer"),
    ("test_kgen_knows_its_weights_and_seeds", {"__init__": with_keras_seeds}, "use kgen.SeedGenerator"),
    ("test_condition_and_null_condition_matter", {"generate": unconditioned}, "whatever null_condition is"),
]
if keras.backend.backend() == "tensorflow":
    FLOWS.append(("test_two_replicas_train_in_step", {"__init__": with_keras_seeds}, "same numbers on both replicas"))


@pytest.mark.parametrize(("check", "members", "match"), FLOWS, ids=[f"{c}-{m}" for c, _, m in FLOWS])
def test_broken_flow_fails(check: str, members: dict[str, Any], match: str) -> None:
    fails(GeneratorConformance, check, flow(**members), match, generate_options=({}, {"guidance": 2.0}), fit_steps=120)


if keras.backend.backend() != "torch":  # which compiles nothing
    GENERATORS.append(("test_generates_what_the_space_says", {"generate": branching}, "float options as tensors"))

if keras.backend.backend() == "tensorflow":
    unsynchronised = {"compute_losses": counting, "__init__": counted}
    GENERATORS.append(("test_two_replicas_train_in_step", unsynchronised, "two replicas"))


@pytest.mark.parametrize(("check", "members", "match"), GENERATORS, ids=[f"{c}-{m}" for c, _, m in GENERATORS])
def test_broken_generator_fails(check: str, members: dict[str, Any], match: str) -> None:
    fails(GeneratorConformance, check, gaussian(**members), match)


def letters(**members: Any) -> Any:
    broken = type("Broken", (Letters,), members)
    return lambda: broken(dim=6)


def ragged(self: Any, texts: Any) -> dict[str, np.ndarray]:
    return {"ids": Letters.tokenize(self, texts)["ids"][:, : 1 + max(map(len, texts))]}


def wide(self: Any, texts: Any) -> dict[str, np.ndarray]:
    return {"ids": Letters.tokenize(self, texts)["ids"].astype(np.int64)}


def crowded(self: Any, texts: Any) -> dict[str, np.ndarray]:
    ids = Letters.tokenize(self, texts)["ids"]
    return {"ids": np.maximum(ids, len(texts) == 1)}


def leaking(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    condition = Letters.call(self, tokens)
    return {**condition, "sequence": condition["sequence"] + ops.max(condition["sequence"], axis=0, keepdims=True)}


def blank(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    condition = Letters.call(self, tokens)
    return {**condition, "mask": ops.cast(tokens["ids"] > 1, "float32")}


def narrow(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    condition = Letters.call(self, tokens)
    return {**condition, "pooled": condition["pooled"][:, :3]}


def frozen_by_mistake(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    return {name: ops.stop_gradient(value) for name, value in Letters.call(self, tokens).items()}


def unpadded(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    condition = Letters.call(self, tokens)
    return {**condition, "mask": ops.ones_like(condition["mask"])}


def noisy_letters(self: Any, dim: int = 8, length: int = 12) -> None:
    Letters.__init__(self, dim, length)
    self.seeds = kgen.SeedGenerator(0)


def noisy(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    condition = Letters.call(self, tokens)
    pooled = condition["pooled"]
    return {**condition, "pooled": pooled + 0.1 * keras.random.normal(ops.shape(pooled), seed=self.seeds)}


def half_conditions(self: Any, tokens: Any, training: bool = False) -> dict[str, Any]:
    return {name: ops.cast(value, "float16") for name, value in Letters.call(self, tokens).items()}


ENCODERS = [
    ("test_mask_covers_no_padding", {"call": unpadded}, "must be 0.0 for padding"),
    ("test_same_text_same_condition", {"__init__": noisy_letters, "call": noisy}, "differs from call to call"),
    ("test_conditions_are_what_the_space_says", {"call": half_conditions}, "must be float32, not float16"),
    ("test_tokens_are_plain_arrays_of_fixed_shape", {"tokenize": ragged}, "must have the shape"),
    ("test_tokens_are_plain_arrays_of_fixed_shape", {"tokenize": wide}, "every backend"),
    ("test_tokens_of_a_text_are_always_the_same", {"tokenize": crowded}, "alone and in a batch"),
    ("test_batch_neighbours_change_nothing", {"call": leaking}, "alone and in a batch"),
    ("test_conditions_are_what_the_space_says", {"call": blank}, "at least one"),
    ("test_conditions_are_what_the_space_says", {"call": narrow}, "must have the shape"),
    ("test_every_weight_has_a_gradient", {"call": frozen_by_mistake}, "does not depend on"),
    ("test_assets_and_weights_survive_files", {"load_assets": lambda self, path: self.adapt("ab")}, "differs|shape"),
]


@pytest.mark.parametrize(("check", "members", "match"), ENCODERS, ids=[f"{c}-{m}" for c, _, m in ENCODERS])
def test_broken_encoder_fails(check: str, members: dict[str, Any], match: str) -> None:
    broken = letters(**members)
    if check == "test_assets_and_weights_survive_files":
        with pytest.raises((AssertionError, kgen.RunError), match=match):
            type(
                "Case", (EncoderConformance,), {"build": lambda self: broken()}
            )().test_assets_and_weights_survive_files()
    else:
        fails(EncoderConformance, check, broken, match)


def halves(**members: Any) -> Any:
    broken = type("Broken", (Halves,), members)
    return lambda: broken(SPACE)


DECODERS = [
    ("test_encodes_into_the_latent_space", {"latent_space": Space("continuous", (23,))}, "encode must make"),
    (
        "test_decodes_into_the_image_space",
        {
            "decode": lambda self, latent, condition, noise: self.up(latent),
            "compute_losses": kgen.Decoder.compute_losses,
        },
        "decode must make",
    ),
    (
        "test_alone_as_in_a_batch",
        {"encode": lambda self, images: Halves.encode(self, images - ops.mean(images, axis=0))},
        "something else",
    ),
    (
        "test_losses_do_not_mix_examples",
        {
            "compute_losses": lambda self, images, condition, training: {
                "loss": ops.softmax(Halves.compute_losses(self, images, condition, training)["loss"])
            }
        },
        "other examples",
    ),
    ("test_builds_all_that_it_has", {"__init__": hoarding}, "has not built .*spare"),
]


@pytest.mark.parametrize(("check", "members", "match"), DECODERS, ids=[f"{c}-{m}" for c, _, m in DECODERS])
def test_broken_decoder_fails(check: str, members: dict[str, Any], match: str) -> None:
    fails(DecoderConformance, check, halves(**members), match)


def forgetful(self: Any, batches: Any) -> None:
    PCA.calibrate(self, batches)
    object.__setattr__(self, "spread", float(np.concatenate(list(batches)).std()))  # neither a weight nor an asset


def spread_encode(self: Any, images: Any) -> Any:
    return PCA.encode(self, images) * (1.0 + getattr(self, "spread", 0.0) / 100.0)


def crashing(self: Any, batches: Any) -> None:
    raise ValueError("boom")


def random_encode(self: Any, images: Any) -> Any:
    z = PCA.encode(self, images)
    return z + 0.1 * keras.random.normal(ops.shape(z), seed=self.seeds)


def seeded_pca(self: Any, image_space: Any) -> None:
    PCA.__init__(self, image_space)
    self.seeds = kgen.SeedGenerator(0)


def among_others(self: Any, latent: Any, condition: Any, noise: Any) -> Any:
    images = PCA.decode(self, latent, condition, noise)
    return images - 0.1 * ops.mean(images, axis=0)


MEASURED = [
    ("test_weights_survive_a_file", {"calibrate": forgetful, "encode": spread_encode}, "round trip"),
    ("test_latents_have_unit_variance", {"encode": lambda self, x: 100 * PCA.encode(self, x)}, "not between 0.5 and 2"),
    ("test_latents_have_unit_variance", {"calibrate": lambda self, batches: None}, "not between 0.5 and 2"),
    ("test_images_depend_on_the_latent", {"decode": lambda self, z, *a: PCA.decode(self, 0 * z, *a)}, "any latents"),
    ("test_encodes_into_the_latent_space", {"calibrate": crashing}, "boom"),
    (
        "test_alone_as_in_a_batch",
        {"encode": lambda self, x: PCA.encode(self, x) - ops.mean(PCA.encode(self, x), axis=0)},
        "something else",
    ),
    ("test_alone_as_in_a_batch", {"decode": among_others}, "something else"),
    ("test_same_input_same_output", {"__init__": seeded_pca, "encode": random_encode}, "something else"),
    (
        "test_decodes_into_the_image_space",
        {"decode": lambda self, *a: ops.cast(PCA.decode(self, *a), "float16")},
        "must make float32, not float16",
    ),
]


@pytest.mark.parametrize(("check", "members", "match"), MEASURED, ids=[f"{c}-{m}" for c, _, m in MEASURED])
def test_broken_calibrated_decoder_fails(check: str, members: dict[str, Any], match: str) -> None:
    fails(DecoderConformance, check, lambda: type("Broken", (PCA,), members)(SPACE), match)


def test_lossy_decoder_is_not_lossless() -> None:
    fails(DecoderConformance, "test_reconstructs", halves(), "off, more than", reconstruction=0.01)


def colours(**members: Any) -> Any:
    return lambda: type("Broken", (Colours,), members)()


def counting(self: Any, split: str, index: int) -> np.ndarray:
    self.reads = getattr(self, "reads", 0) + 1
    return Colours.image(self, split, index) // np.uint8(self.reads)


def shared(self: Any, split: str, index: int) -> np.ndarray:
    cache = self.__dict__.setdefault("cache", {})
    return cache.setdefault((split, index), Colours.image(self, split, index))


def overlapping(self: Any, split: str) -> list[str]:
    return ["red", "white"] if split != "validation" else []


def repeated(self: Any, split: str) -> list[str]:
    return [] if split == "holdout" else ["red", "green"]


DATASETS = [
    ("test_fingerprint_follows_the_options", {"fingerprint": lambda self: "same"}, "the fingerprint is the same"),
    ("test_reading_is_deterministic", {"image": counting}, "read again"),
    ("test_reading_is_deterministic", {"image": shared}, "after its array was written to"),
    ("test_splits_are_disjoint", {"captions": overlapping}, "held out"),
    ("test_splits_are_disjoint", {"captions": repeated}, "in 'train' too"),
    ("test_captions_are_texts", {"captions": lambda self, split: []}, "is empty"),
    (
        "test_pictures_are_what_the_space_says",
        {"image": lambda self, split, index: Colours.image(self, split, index) / 255},
        "uint8",
    ),
    (
        "test_fingerprint_is_stable",
        {"fingerprint": lambda self: str(id(object.__new__(object))) + str(np.random.default_rng().random())},
        "two fingerprints",
    ),
]


@pytest.mark.parametrize(("check", "members", "match"), DATASETS, ids=[f"{c}-{m}" for c, _, m in DATASETS])
def test_broken_dataset_fails(check: str, members: dict[str, Any], match: str) -> None:
    fails(DatasetConformance, check, colours(**members), match)


def writing(self: Any, images: Any, *given: Any) -> dict[str, float]:
    images[:] = 0
    return {"exact": 0.0}


def test_broken_metric_fails() -> None:
    attributes = {"dataset": lambda self: Colours(), "real": {"exact": (1.0, 1.0)}}
    half = type("Half", (Exact,), {"__call__": lambda self, *a: {"exact": Exact.__call__(self, *a)["exact"] / 2}})
    fails(MetricConformance, "test_real_pictures_score_as_they_must", half, "must lie between", **attributes)
    none = type("Nothing", (Exact,), {"__call__": lambda self, *a: {"exact": float("nan")}})
    fails(MetricConformance, "test_scores_are_named_numbers", none, "finite number", **attributes)
    first = type("First", (Exact,), {"__call__": lambda self, images, *a: {"exact": float(images[0, 0, 0, 0])}})
    fails(MetricConformance, "test_order_does_not_matter", first, "in another order", **attributes)
    fails(
        MetricConformance,
        "test_scores_are_named_numbers",
        type("Writes", (Exact,), {"__call__": writing}),
        "writes to",
        **attributes,
    )


# ---- the parts of the kit -------------------------------------------------------------------------------------------


@pytest.mark.backends
def test_gradients_are_those_of_calculus() -> None:
    layer = keras.layers.Dense(1, use_bias=True)
    x = ops.convert_to_tensor(np.array([[1.0, 2.0, -3.0]], "float32"))
    layer(x)
    layer.kernel.assign(np.array([[1.0], [1.0], [1.0]]))
    found = gradients(layer, lambda: ops.sum(ops.square(layer(x)[:, 0]) + 0.0 * layer(x)[:, 0]))
    kernel, bias = found.values()  # y = w.x + b = 0, so dy^2 = 2 y x = 0
    assert kernel is not None and not kernel.any() and bias is not None and not bias.any()
    layer.bias.assign([2.0])
    kernel, bias = gradients(layer, lambda: ops.sum(ops.square(layer(x)))).values()
    np.testing.assert_allclose(kernel[:, 0], [4.0, 8.0, -12.0])
    np.testing.assert_allclose(bias, [4.0])


def test_the_plugin_of_the_readme_is_this_one() -> None:
    root = Path(__file__).parents[1]
    assert (root / "tests/gaussian.py").read_text() in (root / "README.md").read_text()
