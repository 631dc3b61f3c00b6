"""The conformance kit of generators: passes those that are right, and fails each that breaks one rule."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from gaussian import Gaussian
from keras import ops
from kit_checks import CONDITIONS, SPACE, fails, hoarding

import kgen
from kgen import ConditionSpace, Space
from kgen.testing import GeneratorConformance


class Flow(kgen.Generator):
    """Flow matching (Lipman et al. 2023) with a linear velocity, guided, integrated by Euler's method."""

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

    def noise_spec(self, *, steps: int = 4, guidance: float = 1.5) -> dict[str, Any]:
        return {"start": kgen.NoiseSpec("normal", self.space.shape)}

    def generate(
        self,
        condition: Any,
        null_condition: Any,
        noise: Any,
        *,
        steps: kgen.Steps = 4,
        guidance: kgen.Guidance = 1.5,
    ) -> Any:
        x = noise["start"]
        for step in range(steps):
            t = ops.full((ops.shape(x)[0], 1), step / steps)
            plain, null = self.at(x, t, condition), self.at(x, t, null_condition)
            x = x + self.direction * (null + guidance * (plain - null)) / steps
        return x

    direction = 1.0


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


def demanding(self: Any, condition: Any, null_condition: Any, noise: Any, *, steps: int) -> Any:
    return Gaussian.generate(self, condition, null_condition, noise)


def unguided(self: Any, condition: Any, null_condition: Any, noise: Any, *, weight: kgen.Guidance = 1.0) -> Any:
    return Gaussian.generate(self, condition, null_condition, noise)


def unmarked(self: Any, condition: Any, null_condition: Any, noise: Any, *, guidance: float = 1.0) -> Any:
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
    """A loss whose gradient is not finite if the reconstruction is exact."""
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


def branching(self: Any, condition: Any, null_condition: Any, noise: Any, *, temperature: float = 1.0) -> Any:
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
    ("test_losses_are_finite_and_per_example", {"compute_losses": reduced}, "one number per example"),
    ("test_losses_are_finite_and_per_example", {"compute_losses": infinite}, "not finite"),
    ("test_data_and_condition_matter", {"compute_losses": deaf}, "condition is not used"),
    ("test_every_weight_has_a_gradient", {"compute_losses": half_trained}, "does not depend on"),
    ("test_no_weights_appear_late", {"compute_losses": late}, "creates weights"),
    ("test_overfits_one_batch", {"compute_losses": climbing}, "must decrease"),
    ("test_alone_as_in_a_batch", {"generate": mixing}, "alone and in a batch"),
    ("test_same_noise_same_sample", {"generate": moody, "__init__": seeded}, "makes another sample"),
    ("test_other_noise_other_sample", {"generate": still}, "from other noise"),
    ("test_samples_are_in_the_space", {"generate": flat}, "must make"),
    ("test_samples_are_in_the_space", {"generate": lazy}, "creates weights|Variable"),
    ("test_samples_are_in_the_space", {"__init__": hoarding}, "has not built .*spare"),
    ("test_supports_the_sizes_that_it_accepts", {"check_space": lambda self, space: None}, "but then a method fails"),
    ("test_generate_options", {"generate": careless}, "misspelled"),
    ("test_generate_options", {"generate": demanding}, "no default"),
    ("test_guidance_matters", {"generate": unguided}, "whatever the guidance"),
    ("test_capabilities_are_declared", {"generate": unmarked}, "annotate it as kgen.Guidance"),
    ("test_likelihood_as_declared", {"likelihood": None}, "implemented"),
    ("test_likelihood_as_declared", {"log_likelihood": summed}, "mixes"),
    ("test_samples_are_in_the_space", {"generate": half}, "must make float32, not float16"),
    ("test_generate_options", {"noise_spec": lambda self: {}}, "must accept the options of generate"),
    ("test_condition_and_null_condition_matter", {"generate": indifferent}, "whatever the condition"),
    ("test_configuration_is_plain_data", {"__init__": keeping_layers}, "holds a Dense, but 'widths' is an option"),
    ("test_kgen_knows_its_weights_and_seeds", {"__init__": hidden, "compute_losses": with_secret}, "not among its own"),
    ("test_data_and_condition_matter", {"compute_losses": constant_gradient}, "data are not used"),
    ("test_losses_of_flat_data_are_finite", {"compute_losses": standardized}, "not finite"),
    ("test_losses_of_flat_data_are_finite", {"compute_losses": rough}, "gradient of weight .* is not finite"),
    ("test_mixed_precision", {"compute_losses": narrow_losses}, "must be float32, not bfloat16"),
    (
        "test_samples_approach_the_training_images",
        {"log_likelihood": wrong_sign, "compute_losses": lambda self, *a: {"loss": wrong_sign(self, *a[:2])}},
        "it must increase",
    ),
]


def flow(**members: Any) -> Any:
    return lambda: type("Broken", (Flow,), members)(SPACE, CONDITIONS)


def impatient(
    self: Any, condition: Any, null_condition: Any, noise: Any, *, steps: kgen.Steps = 4, guidance: kgen.Guidance = 1.5
) -> Any:
    times = [1.0, 0.75, 0.5, 0.25][:steps]
    assert times[3] == 0.25
    return Flow.generate(self, condition, null_condition, noise, steps=steps, guidance=guidance)


def unconditioned(
    self: Any, condition: Any, null_condition: Any, noise: Any, *, steps: kgen.Steps = 4, guidance: kgen.Guidance = 1.5
) -> Any:
    return Flow.generate(self, condition, condition, noise, steps=steps, guidance=guidance)


def with_keras_seeds(self: Any, space: Any, condition_space: Any) -> None:
    Flow.__init__(self, space, condition_space)
    self.seeds = keras.random.SeedGenerator(0)


def with_a_hidden_layer(self: Any, space: Any, condition_space: Any) -> None:
    Flow.__init__(self, space, condition_space)
    self.quantize = keras.layers.Identity()


FLOWS = [
    ("test_takes_any_number_of_steps", {"generate": impatient}, "steps=1.* fails: IndexError"),
    ("test_samples_approach_the_training_images", {"direction": -1.0}, "must come closer"),
    ("test_kgen_knows_its_weights_and_seeds", {"__init__": with_keras_seeds}, "use kgen.SeedGenerator"),
    ("test_kgen_knows_its_weights_and_seeds", {"__init__": with_a_hidden_layer}, "keeps a layer as 'quantize'"),
    ("test_condition_and_null_condition_matter", {"generate": unconditioned}, "whatever null_condition is"),
]


if keras.backend.backend() == "tensorflow":
    FLOWS.append(("test_two_replicas_train_in_step", {"__init__": with_keras_seeds}, "same numbers on both replicas"))


@pytest.mark.parametrize(("check", "members", "match"), FLOWS, ids=[f"{c}-{m}" for c, _, m in FLOWS])
def test_broken_flow_fails(check: str, members: dict[str, Any], match: str) -> None:
    fails(GeneratorConformance, check, flow(**members), match, generate_options=({}, {"guidance": 2.0}), fit_steps=120)


if keras.backend.backend() != "torch":  # which compiles nothing
    GENERATORS.append(("test_samples_are_in_the_space", {"generate": branching}, "float options as tensors"))


if keras.backend.backend() == "tensorflow":
    unsynchronized = {"compute_losses": counting, "__init__": counted}
    GENERATORS.append(("test_two_replicas_train_in_step", unsynchronized, "two replicas"))


@pytest.mark.parametrize(("check", "members", "match"), GENERATORS, ids=[f"{c}-{m}" for c, _, m in GENERATORS])
def test_broken_generator_fails(check: str, members: dict[str, Any], match: str) -> None:
    fails(GeneratorConformance, check, gaussian(**members), match)
