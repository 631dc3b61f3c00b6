"""The requirements of generators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from kgen.backend.precision import precision
from kgen.contracts.capabilities import Capability, guides, option_of, value_of
from kgen.contracts.generator import Generator
from kgen.options import options, split_options
from kgen.random import NoiseSpec, sample
from kgen.testing.bench import Bench
from kgen.testing.configuration import allows, check_method_options, shown
from kgen.testing.execution import Tensor, arrays, as_arrays, check_built, outline, reseed, rows
from kgen.testing.inputs import check_in_space, constant_latents, louder, random_conditions, random_latents, taller
from kgen.testing.losses import BATCH, Batch, LossConformance
from kgen.testing.state import check_initialization, initialized

Options = Mapping[str, Any]


class GeneratorConformance(LossConformance):
    """Checks a generator. Subclass it, and implement `build`, which returns a tiny generator."""

    generate_options: ClassVar[Sequence[Options]] = ({},)
    """Sets of options of `generate`, each of which is checked: for example every sampler with a few steps."""

    likelihood_options: ClassVar[Options] = {}
    """Options of `log_likelihood`, if it has any, such as fewer steps."""

    conditional: ClassVar[bool] = True
    """False for a generator that ignores its condition."""

    deterministic: ClassVar[bool] = False
    """True for a generator that returns the same image for any noise."""

    learns: ClassVar[bool] = True
    """False if samples need not come closer to an image after a short training on it; give the reason in a comment."""

    nearer: ClassVar[float] = 0.9
    """The training must reduce the distance of the samples from the image at least to this share of it."""

    tolerance: ClassVar[float] = 1e-4
    """Largest difference of an image between a batch of one and a larger batch."""

    # ---- training -------------------------------------------------------------------------------------------------

    def loss_batch(self, component: Generator, seed: int = 0) -> Batch:
        return {
            "x": random_latents(component.space, BATCH, seed),
            "condition": random_conditions(component.condition_space, BATCH, seed),
        }

    def loss_of(self, component: Generator, batch: Batch, training: bool) -> Mapping[str, Any]:
        return component.compute_losses(batch["x"], batch["condition"], training)

    def ready(self) -> Generator:
        component: Generator = initialized(super().ready())
        return component

    def flat_batch(self, component: Generator, level: float) -> Batch:
        return {**self.loss_batch(component), "x": constant_latents(component.space, BATCH, level)}

    def test_accepts_its_space(self) -> None:
        component = self.example()
        assert component.space.kind in component.accepts, (
            f"{type(component).__name__}.accepts {component.accepts} lacks the kind of its own space "
            f"({component.space}): kgen would refuse it"
        )

    def test_data_and_condition_matter(self) -> None:
        bench = self.bench(perturbed=True)
        batch, other = (self.loss_batch(bench.component, seed) for seed in (0, 1))
        loss = self._losses(bench, batch, False)["loss"]
        other_x = self._losses(bench, {**batch, "x": other["x"]}, False)["loss"]
        assert not np.allclose(loss, other_x, rtol=1e-6), "'loss' is the same for any x: the data are not used"
        other_text = self._losses(bench, {**batch, "condition": other["condition"]}, False)["loss"]
        assert not self.conditional or not np.allclose(loss, other_text, rtol=1e-6), (
            "'loss' is the same for any text: the condition is not used"
        )

    def test_initializes_from_the_latents_alone(self) -> None:
        check_initialization(self.bench().component)

    # ---- sampling -------------------------------------------------------------------------------------------------

    def _generate(self, bench: Bench, batch: Batch, given: Options) -> np.ndarray:
        """Generates samples like the pipeline: traced or compiled as a whole."""
        return arrays(self._samples(bench, batch, given))  # type: ignore[no-any-return]

    def _samples(self, bench: Bench, batch: Batch, given: Options, traced: bool = True) -> Tensor:
        """Generates samples as tensors. If `traced` is False, nothing is traced where that is costly."""
        source = [name for name in ("source", "edit_mask") if name in batch]
        name, function, arguments = self._program(bench.component, batch, given)
        try:
            if traced:
                return bench.program(f"{name} from {source}", function).compute(arguments)
            return bench.evaluate(name, function, arguments)
        except Exception as error:
            raise AssertionError(
                f"generate({shown(given)}) fails in a pipeline, which compiles it as a whole, with float options as "
                f"tensors (see Generator.generate): {error!r}"
            ) from error

    def _program(
        self, component: Generator, batch: Batch, given: Options
    ) -> tuple[str, Callable[[Batch], Tensor], Batch]:
        """`generate` in the form that the pipeline compiles, with numbers as tensors.

        Returns:
            The name of the program, the function of a batch of arrays, and the batch.
        """
        static, numbers = split_options(type(component).generate, given)

        def function(b: Batch) -> Tensor:
            source = {name: b[name] for name in ("source", "edit_mask") if name in b}
            noise = b.get("noise", {})
            return component.generate(b["condition"], b["null"], noise, **source, **static, **b.get("numbers", {}))

        arguments = {**batch, **({"numbers": as_arrays(numbers)} if numbers else {})}
        return f"generate({shown(static)}, {sorted(numbers)})", function, arguments

    def _outline(self, bench: Bench, batch: Batch, given: Options) -> Tensor:
        """Generates samples; on JAX only their shape and type, which needs no compiling."""
        _, function, arguments = self._program(bench.component, batch, given)
        return outline(bench.component, function, arguments)

    def _sampling_batch(self, component: Generator, given: Options, seed: int = 0) -> Batch:
        condition = random_conditions(component.condition_space, BATCH, seed=0)
        null = rows(random_conditions(component.condition_space, 1, seed=9), [0] * BATCH)
        noise = sample(component.noise_spec(**given), [(seed, copy) for copy in range(BATCH)])
        return {"condition": condition, "null": null, **({"noise": noise} if noise else {})}

    def test_generate_options(self) -> None:
        """Checks that options are named and typed, that each has a default, and that `noise_spec` accepts the same."""
        component = self.example()
        for given in self.generate_options:
            check_method_options(type(component).generate, given)
        defaults = {name: p.default for name, p in options(type(component).generate).items()}
        for given in ({}, defaults, *self.generate_options):
            try:
                specs = component.noise_spec(**given)
            except TypeError as error:
                raise AssertionError(f"noise_spec must accept the options of generate: {error}") from error
            assert all(isinstance(spec, NoiseSpec) for spec in specs.values()), (
                f"noise_spec must return NoiseSpecs by name, not {specs}"
            )

    def test_samples_are_in_the_space(self) -> None:
        bench = self.bench(perturbed=True)
        component = bench.component
        for given in self.generate_options:
            x = self._samples(bench, self._sampling_batch(component, given), given)
            check_in_space(x, component.space, BATCH, f"generate({shown(given)})")
        assert len(component.variables) == bench.count, "generate creates weights: create them where training does"
        check_built(component)

    def test_supports_the_sizes_that_it_accepts(self) -> None:
        """Checks losses and samples of latents of twice the height, if `check_space` accepts them."""
        bench = self.bench(perturbed=True)
        component = bench.component
        space = taller(component, component.space)
        if space is None:
            return
        other, given = component.resized(space), self.generate_options[0]
        assert other.space == space, f"resized({space}) returns a generator of {other.space}"
        batch = {**self.loss_batch(component), "x": random_latents(space, BATCH, 0)}
        try:
            losses = outline(other, lambda b: dict(self.loss_of(other, b, True)), batch)
            samples = outline(other, *self._program(other, self._sampling_batch(other, given), given)[1:])
        except Exception as error:
            raise AssertionError(f"check_space accepts {space}, but then a method fails: {error!r}") from error
        assert tuple(losses["loss"].shape) == (BATCH,), f"for {space}, 'loss' has the shape {losses['loss'].shape}"
        assert tuple(samples.shape) == (BATCH, *space.shape), f"for {space}, generate makes {tuple(samples.shape)}"
        assert len(component.variables) == bench.count, f"the generator has more weights for {space}"

    def test_same_noise_same_sample(self) -> None:
        """Checks that images depend only on the given noise, not on any state or seed of the generator."""
        bench = self.bench(perturbed=True)
        for given in self.generate_options:
            batch = self._sampling_batch(bench.component, given)
            made = []
            for seed in (1, 2):
                reseed(bench.component, seed)
                made.append(self._generate(bench, batch, given))
            assert np.allclose(made[0], made[1], atol=1e-6), (
                f"generate({shown(given)}) with the same noise makes another sample: use no random numbers in it "
                f"except those that noise_spec declares (with a 'key', kgen.random generates any amount of noise)"
            )

    def test_other_noise_other_sample(self) -> None:
        bench = self.bench(perturbed=True)
        for given in self.generate_options:
            batches = [self._sampling_batch(bench.component, given, seed) for seed in (0, 1)]
            first, second = (self._generate(bench, batch, given) for batch in batches)
            same = np.allclose(first, second, atol=1e-6)
            assert self.deterministic or not same, f"generate({shown(given)}) makes the same sample from other noise"

    def test_alone_as_in_a_batch(self) -> None:
        """Checks that an image depends only on its own row of the arguments."""
        bench = self.bench(perturbed=True)
        for number, given in enumerate(self.generate_options):
            batch = self._sampling_batch(bench.component, given)
            together = self._generate(bench, batch, given)
            others = self._sampling_batch(bench.component, given, seed=1)
            neighbors = keras.tree.map_structure(lambda a, b: np.concatenate([a[:1], b[:0:-1]]), batch, others)
            found = [(0, self._generate(bench, neighbors, given))]
            if keras.backend.backend() != "jax" or number == 0:  # JAX compiles for every batch size
                alone = [(i, rows(batch, slice(i, i + 1))) for i in (0, BATCH - 1)]
                found += [(i, self._generate(bench, one, given)) for i, one in alone]
            for index, other in found:
                np.testing.assert_allclose(
                    other[0],
                    together[index],
                    rtol=0,
                    atol=self.tolerance,
                    err_msg=f"generate({shown(given)}): image {index} differs alone and in a batch",
                )

    def test_capabilities_are_declared(self) -> None:
        """Checks that an option with the usual name of a capability also has its type."""
        generate = type(self.example()).generate
        kinds = {Capability.GUIDANCE: "Guidance", Capability.GUIDE: "Guide", Capability.STEPS: "Steps"}
        for capability, kind in kinds.items():
            assert capability.value not in options(generate) or option_of(generate, capability) is not None, (
                f"generate takes '{capability.value}', but kgen cannot use it without its type: annotate it as "
                f"kgen.{kind}, or give it another name"
            )

    def test_guidance_matters(self) -> None:
        bench = self.bench(perturbed=True)
        component = bench.component
        guidance = option_of(type(component).generate, Capability.GUIDANCE)
        if guidance is None:
            return
        given = dict(self.generate_options[0])
        usual = float(value_of(type(component).generate, Capability.GUIDANCE, given))
        batch = self._sampling_batch(component, given)
        weak = self._generate(bench, batch, given)
        strong = self._generate(bench, batch, {**given, guidance: usual + 3.0})
        assert np.isfinite(strong).all(), f"generate({guidance}={usual + 3.0}) is not finite"
        assert not np.allclose(weak, strong, atol=1e-6), "generate makes the same sample whatever the guidance"

    def test_generates_in_mixed_precision(self) -> None:
        given = self.generate_options[0]
        with precision("mixed_bfloat16"):
            bench = self.bench(perturbed=True)
            x = self._samples(bench, self._sampling_batch(bench.component, given), given, traced=False)
            check_in_space(x, bench.component.space, BATCH, f"generate({shown(given)}) in mixed precision", narrow=True)

    def test_takes_any_number_of_steps(self) -> None:
        """Checks one, two and three steps, if the type of the option of steps allows them."""
        bench = self.bench(perturbed=True)
        generate = type(bench.component).generate
        option = option_of(generate, Capability.STEPS)
        if option is None:
            return
        for number, given in enumerate(self.generate_options):
            for steps in (1, 2, 3) if number == 0 else (1, 2):
                asked = {**given, option: steps}
                if steps == given.get(option) or not allows(generate, asked):
                    continue
                try:
                    batch = self._sampling_batch(bench.component, asked)
                    x = self._outline(bench, batch, asked)
                except Exception as error:
                    raise AssertionError(f"generate({shown(asked)}) fails: {error!r}") from error
                if ops.is_tensor(x):  # JAX computes only the shape
                    check_in_space(x, bench.component.space, BATCH, f"generate({shown(asked)})")

    def test_condition_and_null_condition_matter(self) -> None:
        bench = self.bench(perturbed=True)
        generate = type(bench.component).generate
        for given in self.generate_options if self.conditional else ():
            batch = self._sampling_batch(bench.component, given)
            loud = {**batch, "condition": louder(batch["condition"]), "null": louder(batch["null"])}
            x = self._generate(bench, loud, given)
            other = {**loud, "condition": rows(loud["condition"], [1, 2, 3, 0])}
            assert not np.allclose(x, self._generate(bench, other, given), atol=1e-6), (
                f"generate({shown(given)}) makes the same sample whatever the condition; if the generator needs none, "
                "set conditional = False in its test"
            )
            if guides(generate, given):
                other = {**loud, "null": louder(loud["null"], -1.0)}
                assert not np.allclose(x, self._generate(bench, other, given), atol=1e-6), (
                    f"generate({shown(given)}) makes the same sample whatever null_condition is"
                )

    # ---- what training does to samples ----------------------------------------------------------------------------

    def test_samples_approach_the_training_images(self) -> None:
        """Checks that training on images of one value brings samples closer to it, and makes these images likelier."""
        bench = self.bench()
        component = bench.component
        if not self.learns or not component.trainable_variables:
            return
        batch = self.flat_batch(component, 0.6)
        likely = self._likelihood(bench, batch) if component.likelihood else None
        before = self._distances(bench, batch["x"])

        def shares() -> list[float]:
            return [now / max(then, 1e-6) for now, then in zip(self._distances(bench, batch["x"]), before, strict=True)]

        reseed(component, 1)
        near = self._descent(bench).fit(batch, self.fit_steps, self.learning_rate, lambda: max(shares()) < self.nearer)
        for given, share in zip(self.generate_options, shares(), strict=True):
            assert near or share < self.nearer, (
                f"after training for {self.fit_steps} steps on one image, the distance of generate({shown(given)}) "
                f"from it is {share:.0%} of the distance before: samples must come closer to the training data (if "
                "that needs more training, set fit_steps or learning_rate; if it is impossible, set learns = False, "
                "and give the reason)"
            )
        if likely is not None:
            after = float(np.mean(self._likelihood(bench, batch)))
            assert after > np.mean(likely), (
                f"after training on one image, log_likelihood of it is {after:.4g} nats; before, it was "
                f"{np.mean(likely):.4g}: it must increase"
            )

    def _distances(self, bench: Bench, target: np.ndarray) -> list[float]:
        """The mean distance of samples from the target, for each set of options."""
        tokens = bench.component.space.kind == "tokens"
        result = []
        for given in self.generate_options:
            x = self._generate(bench, self._sampling_batch(bench.component, given), given)
            result.append(float(np.mean(x != target) if tokens else np.mean(np.abs(x - target))))
        return result

    # ---- editing --------------------------------------------------------------------------------------------------

    def test_inpainting_changes_only_the_mask(self) -> None:
        bench = self.bench(perturbed=True)
        component = bench.component
        if not component.supports_inpainting or len(component.space.shape) < 2:  # a sequence has no mask
            return
        source = random_latents(component.space, BATCH, 2)
        edit_mask = np.random.default_rng(0).random((BATCH, *component.space.shape[:2])) < 0.5  # another for each row
        for given in self.generate_options:
            batch = {**self._sampling_batch(component, given), "source": source, "edit_mask": edit_mask}
            x = self._generate(bench, batch, given)
            check_in_space(x, component.space, BATCH, f"generate({shown(given)}) with an edit_mask")
            assert np.array_equal(x[~edit_mask], source[~edit_mask]), (
                f"generate({shown(given)}) changes latents outside of edit_mask"
            )
            assert not np.array_equal(x, source), f"generate({shown(given)}) changes nothing inside of edit_mask"
            other = self._generate(bench, rows(batch, [3, 1, 0, 2]), given)
            np.testing.assert_allclose(
                other[1], x[1], rtol=0, atol=self.tolerance, err_msg="an edited sample depends on its batch"
            )

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def _likelihood(self, bench: Bench, batch: Batch) -> np.ndarray:
        component = bench.component
        static, numbers = split_options(type(component).log_likelihood, self.likelihood_options)

        def function(b: Batch) -> Any:
            return component.log_likelihood(b["x"], b["condition"], **static, **b.get("numbers", {}))

        arguments = {**batch, **({"numbers": as_arrays(numbers)} if numbers else {})}
        return bench.program("log_likelihood", function)(arguments)  # type: ignore[no-any-return]

    def test_likelihood_as_declared(self) -> None:
        bench = self.bench(perturbed=True)
        component = bench.component
        has = type(component).log_likelihood is not Generator.log_likelihood
        assert has == (component.likelihood is not None), (
            f"likelihood is {component.likelihood!r}, but log_likelihood is {'' if has else 'not '}implemented"
        )
        if not has:
            return
        batch = self.loss_batch(component)
        changed = {**batch, "x": np.concatenate([random_latents(component.space, 1, 1), batch["x"][1:]])}

        first, second = (self._likelihood(bench, b) for b in (batch, changed))
        assert first.shape == (BATCH,), f"log_likelihood must be one number per example, (B,), not {first.shape}"
        assert np.isfinite(first).all(), f"log_likelihood is not finite: {first}"
        assert not np.isclose(first[0], second[0], rtol=1e-7), "log_likelihood does not depend on x"
        np.testing.assert_allclose(
            second[1:], first[1:], rtol=1e-4, atol=1e-4, err_msg="log_likelihood mixes the examples of a batch"
        )
