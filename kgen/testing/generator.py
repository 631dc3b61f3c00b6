"""What every generator must fulfil."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from kgen.backend.precision import precision
from kgen.contracts.generator import Generator
from kgen.options import options, split_options
from kgen.random import NoiseSpec, sample
from kgen.testing.bench import Bench
from kgen.testing.configuration import allows, check_method_options
from kgen.testing.execution import Tensor, arrays, as_arrays, check_built, outline, reseed, rows
from kgen.testing.inputs import check_in_space, constant_latents, random_conditions, random_latents
from kgen.testing.losses import BATCH, Batch, LossConformance

Options = Mapping[str, Any]


class GeneratorConformance(LossConformance):
    """Checks a generator: subclass it, and give `build`, which returns a tiny one."""

    generate_options: ClassVar[Sequence[Options]] = ({},)
    """Options of `generate` to check, each set by itself: every sampler with a few steps, say."""

    likelihood_options: ClassVar[Options] = {}
    """Options of `log_likelihood`, where it has some: fewer steps, say."""

    conditional: ClassVar[bool] = True
    """False for a generator that ignores its condition."""

    deterministic: ClassVar[bool] = False
    """True for a generator that makes the same image whatever the noise."""

    learns: ClassVar[bool] = True
    """False for a generator that a short training on one image need not bring nearer to it; say why."""

    nearer: ClassVar[float] = 0.9
    """That training must reduce the distance of the samples from the image to this share of it, or less."""

    tolerance: ClassVar[float] = 1e-4
    """How far an image may differ alone and in a batch."""

    # ---- training -------------------------------------------------------------------------------------------------

    def loss_batch(self, component: Generator, seed: int = 0) -> Batch:
        return {
            "x": random_latents(component.space, BATCH, seed),
            "condition": random_conditions(component.condition_space, BATCH, seed),
        }

    def loss_of(self, component: Generator, batch: Batch, training: bool) -> Mapping[str, Any]:
        return component.compute_losses(batch["x"], batch["condition"], training)

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

    # ---- sampling -------------------------------------------------------------------------------------------------

    def _generate(self, bench: Bench, batch: Batch, given: Options) -> np.ndarray:
        """Samples as the pipeline does: traced, or compiled, as a whole."""
        return arrays(self._samples(bench, batch, given))  # type: ignore[no-any-return]

    def _samples(self, bench: Bench, batch: Batch, given: Options, traced: bool = True) -> Tensor:
        """The same as tensors; not traced where that is costly, unless `traced`."""
        source = [name for name in ("source", "edit_mask") if name in batch]
        name, function, arguments = self._program(bench.component, batch, given)
        try:
            if traced:
                return bench.program(f"{name} from {source}", function).compute(arguments)
            return bench.evaluate(name, function, arguments)
        except Exception as error:
            raise AssertionError(
                f"generate({_show(given)}) fails as a pipeline computes it, compiled whole, with float options as "
                f"tensors (see Generator.generate): {error!r}"
            ) from error

    def _program(
        self, component: Generator, batch: Batch, given: Options
    ) -> tuple[str, Callable[[Batch], Tensor], Batch]:
        """`generate` as the pipeline compiles it, with numbers as tensors: the name of the program, the function of a
        batch of arrays, and the batch."""
        static, numbers = split_options(type(component).generate, given)

        def function(b: Batch) -> Tensor:
            source = {name: b[name] for name in ("source", "edit_mask") if name in b}
            noise = b.get("noise", {})
            return component.generate(b["condition"], b["null"], noise, **source, **static, **b.get("numbers", {}))

        arguments = {**batch, **({"numbers": as_arrays(numbers)} if numbers else {})}
        return f"generate({_show(static)}, {sorted(numbers)})", function, arguments

    def _outline(self, bench: Bench, batch: Batch, given: Options) -> Tensor:
        """Samples; on JAX only their shape and type, which takes no compiling."""
        _, function, arguments = self._program(bench.component, batch, given)
        return outline(bench.component, function, arguments)

    def _sampling_batch(self, component: Generator, given: Options, seed: int = 0) -> Batch:
        condition = random_conditions(component.condition_space, BATCH, seed=0)
        null = rows(random_conditions(component.condition_space, 1, seed=9), [0] * BATCH)
        noise = sample(component.noise_spec(**given), [(seed, copy) for copy in range(BATCH)])
        return {"condition": condition, "null": null, **({"noise": noise} if noise else {})}

    def test_generate_options(self) -> None:
        """Named, typed, each with a default, and `noise_spec` takes the same."""
        component = self.example()
        for given in self.generate_options:
            check_method_options(type(component).generate, given)
        defaults = {name: p.default for name, p in options(type(component).generate).items()}
        for given in ({}, defaults, *self.generate_options):
            try:
                specs = component.noise_spec(**given)
            except TypeError as error:
                raise AssertionError(f"noise_spec must take the options of generate: {error}") from error
            assert all(isinstance(spec, NoiseSpec) for spec in specs.values()), (
                f"noise_spec must return NoiseSpecs by name, not {specs}"
            )

    def test_generates_what_the_space_says(self) -> None:
        bench = self.bench(perturbed=True)
        component = bench.component
        for given in self.generate_options:
            x = self._samples(bench, self._sampling_batch(component, given), given)
            check_in_space(x, component.space, BATCH, f"generate({_show(given)})")
        assert len(component.variables) == bench.count, "generate creates weights: create them where training does"
        check_built(component)

    def test_same_noise_same_sample(self) -> None:
        """Images depend on the noise that they are given alone, not on any state or seed of the generator."""
        bench = self.bench(perturbed=True)
        for given in self.generate_options:
            batch = self._sampling_batch(bench.component, given)
            made = []
            for seed in (1, 2):
                reseed(bench.component, seed)
                made.append(self._generate(bench, batch, given))
            assert np.allclose(made[0], made[1], atol=1e-6), (
                f"generate({_show(given)}) with the same noise makes another sample: draw no random numbers in it but "
                f"those that noise_spec declares (a 'key' gives as many as wanted, through kgen.random)"
            )

    def test_other_noise_other_sample(self) -> None:
        bench = self.bench(perturbed=True)
        for given in self.generate_options:
            batches = [self._sampling_batch(bench.component, given, seed) for seed in (0, 1)]
            first, second = (self._generate(bench, batch, given) for batch in batches)
            same = np.allclose(first, second, atol=1e-6)
            assert self.deterministic or not same, f"generate({_show(given)}) makes the same sample from other noise"

    def test_alone_as_in_a_batch(self) -> None:
        """An image depends on its own row of the arguments alone."""
        bench = self.bench(perturbed=True)
        for number, given in enumerate(self.generate_options):
            batch = self._sampling_batch(bench.component, given)
            together = self._generate(bench, batch, given)
            others = self._sampling_batch(bench.component, given, seed=1)
            neighbors = keras.tree.map_structure(lambda a, b: np.concatenate([a[:1], b[:0:-1]]), batch, others)
            found = [(0, self._generate(bench, neighbors, given))]
            if keras.backend.backend() != "jax" or number == 0:  # which compiles for every size of a batch
                alone = [(i, rows(batch, slice(i, i + 1))) for i in (0, BATCH - 1)]
                found += [(i, self._generate(bench, one, given)) for i, one in alone]
            for index, other in found:
                np.testing.assert_allclose(
                    other[0],
                    together[index],
                    rtol=0,
                    atol=self.tolerance,
                    err_msg=f"generate({_show(given)}): image {index} differs alone and in a batch",
                )

    def test_guidance_as_declared(self) -> None:
        bench = self.bench(perturbed=True)
        component = bench.component
        named = "guidance" in options(type(component).generate)
        assert named == component.supports_guidance, (
            f"supports_guidance is {component.supports_guidance}, but generate "
            f"{'takes' if named else 'does not take'} 'guidance'"
        )
        if not named:
            return
        given = dict(self.generate_options[0])
        usual = float(given.get("guidance", options(type(component).generate)["guidance"].default))
        batch = self._sampling_batch(component, given)
        weak = self._generate(bench, batch, given)
        strong = self._generate(bench, batch, {**given, "guidance": usual + 3.0})
        assert np.isfinite(strong).all(), f"generate(guidance={usual + 3.0}) is not finite"
        assert not np.allclose(weak, strong, atol=1e-6), "generate makes the same sample whatever the guidance"

    def test_generates_in_mixed_precision(self) -> None:
        given = self.generate_options[0]
        with precision("mixed_bfloat16"):
            bench = self.bench(perturbed=True)
            x = self._samples(bench, self._sampling_batch(bench.component, given), given, traced=False)
            check_in_space(x, bench.component.space, BATCH, f"generate({_show(given)}) in mixed precision", narrow=True)

    def test_takes_any_number_of_steps(self) -> None:
        """One step, two and three, where the type of the option `steps` allows it."""
        bench = self.bench(perturbed=True)
        generate = type(bench.component).generate
        if "steps" not in options(generate):
            return
        for number, given in enumerate(self.generate_options):
            for steps in (1, 2, 3) if number == 0 else (1, 2):
                asked = {**given, "steps": steps}
                if steps == given.get("steps") or not allows(generate, asked):
                    continue
                try:
                    batch = self._sampling_batch(bench.component, asked)
                    x = self._outline(bench, batch, asked)
                except Exception as error:
                    raise AssertionError(f"generate({_show(asked)}) fails: {error!r}") from error
                if ops.is_tensor(x):  # JAX finds out the shape alone
                    check_in_space(x, bench.component.space, BATCH, f"generate({_show(asked)})")

    def test_condition_and_null_condition_matter(self) -> None:
        bench = self.bench(perturbed=True)
        guided = bench.component.supports_guidance
        for given in self.generate_options if self.conditional else ():
            batch = self._sampling_batch(bench.component, given)
            loud = {**batch, "condition": _louder(batch["condition"]), "null": _louder(batch["null"])}
            x = self._generate(bench, loud, given)
            other = {**loud, "condition": rows(loud["condition"], [1, 2, 3, 0])}
            assert not np.allclose(x, self._generate(bench, other, given), atol=1e-6), (
                f"generate({_show(given)}) makes the same sample whatever the condition; a generator that needs none "
                "says conditional = False in its test"
            )
            if guided and given.get("guidance", 1.0) != 1.0:
                other = {**loud, "null": _louder(loud["null"], -1.0)}
                assert not np.allclose(x, self._generate(bench, other, given), atol=1e-6), (
                    f"generate({_show(given)}) makes the same sample whatever null_condition is"
                )

    # ---- what training does to samples ----------------------------------------------------------------------------

    def test_samples_come_near_what_it_learned(self) -> None:
        """After training on images of one value, samples are nearer to it than before, and these images likelier."""
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
                f"training for {self.fit_steps} steps on one image brings generate({_show(given)}) to {share:.0%} of "
                f"the distance from it that it had before: samples must come nearer to what is learned (set fit_steps "
                "or learning_rate where this is asking too much; learns = False, with the reason, where it cannot be)"
            )
        if likely is not None:
            after = float(np.mean(self._likelihood(bench, batch)))
            assert after > np.mean(likely), (
                f"after training on one image, log_likelihood of it is {after:.4g} nats; before, it was "
                f"{np.mean(likely):.4g}: it must rise"
            )

    def _distances(self, bench: Bench, target: np.ndarray) -> list[float]:
        """With each set of options the mean distance of samples from what they should be."""
        tokens = bench.component.space.kind == "tokens"
        result = []
        for given in self.generate_options:
            x = self._generate(bench, self._sampling_batch(bench.component, given), given)
            result.append(float(np.mean(x != target) if tokens else np.mean(np.abs(x - target))))
        return result

    # ---- editing --------------------------------------------------------------------------------------------------

    def test_edits_as_declared(self) -> None:
        component = self.example()
        known = inspect.signature(type(component).generate).parameters
        for declared, argument in (("supports_img2img", "source"), ("supports_inpainting", "edit_mask")):
            assert (argument in known) == getattr(component, declared), (
                f"{declared} is {getattr(component, declared)}, but generate "
                f"{'takes' if argument in known else 'does not take'} '{argument}'"
            )
        assert "strength" in known or not component.supports_img2img, (
            "supports_img2img is True, but generate does not take 'strength'"
        )
        assert component.supports_img2img or not component.supports_inpainting, (
            "supports_inpainting is True, but supports_img2img is not"
        )

    def test_draws_a_region_anew_and_keeps_the_rest(self) -> None:
        bench = self.bench(perturbed=True)
        component = bench.component
        if not component.supports_inpainting or len(component.space.shape) < 2:  # a sequence has no region
            return
        source = random_latents(component.space, BATCH, 2)
        edit_mask = np.random.default_rng(0).random((BATCH, *component.space.shape[:2])) < 0.5  # another for each row
        for given in self.generate_options:
            batch = {**self._sampling_batch(component, given), "source": source, "edit_mask": edit_mask}
            x = self._generate(bench, batch, given)
            check_in_space(x, component.space, BATCH, f"generate({_show(given)}) of a region")
            assert np.array_equal(x[~edit_mask], source[~edit_mask]), (
                f"generate({_show(given)}) changes more than its region"
            )
            assert not np.array_equal(x, source), f"generate({_show(given)}) draws nothing of its region anew"
            other = self._generate(bench, rows(batch, [3, 1, 0, 2]), given)
            np.testing.assert_allclose(
                other[1], x[1], rtol=0, atol=self.tolerance, err_msg="a region changes with its neighbors in the batch"
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
        assert first.shape == (BATCH,), f"log_likelihood must be one number an example, (B,), not {first.shape}"
        assert np.isfinite(first).all(), f"log_likelihood is not finite: {first}"
        assert not np.isclose(first[0], second[0], rtol=1e-7), "log_likelihood does not depend on x"
        np.testing.assert_allclose(
            second[1:], first[1:], rtol=1e-4, atol=1e-4, err_msg="log_likelihood mixes the examples of a batch"
        )


def _louder(condition: Batch, factor: float = 10.0) -> Batch:
    """A condition of larger numbers, whose mask stays."""
    return {name: value if name == "mask" else factor * value for name, value in condition.items()}


def _show(given: Options) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in given.items())
