"""What every generator must fulfil."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from kgen.components.generator import Generator
from kgen.random import NoiseSpec, draw
from kgen.signature import options
from kgen.testing.configuration import check_method_options
from kgen.testing.execution import Runner, check_built, perturb, reseed, rows, unchanged
from kgen.testing.inputs import check_in_space, random_conditions, random_latents
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
    """True for a generator that makes the same picture whatever the noise."""

    tolerance: ClassVar[float] = 1e-4
    """How far a picture may differ alone and in a batch."""

    # ---- training -------------------------------------------------------------------------------------------------

    def loss_batch(self, component: Generator, seed: int = 0) -> Batch:
        return {
            "x": random_latents(component.space, BATCH, seed),
            "condition": random_conditions(component.condition_space, BATCH, seed),
        }

    def loss_of(self, component: Generator, batch: Batch, training: bool) -> Mapping[str, Any]:
        return component.compute_losses(batch["x"], batch["condition"], training)

    def test_accepts_its_space(self) -> None:
        component = self.build()
        assert component.space.kind in component.accepts, (
            f"{type(component).__name__}.accepts {component.accepts} lacks the kind of its own space "
            f"({component.space}): kgen would refuse it"
        )

    def test_data_and_condition_matter(self) -> None:
        component = self.ready()
        perturb(component)
        batch, other = (self.loss_batch(component, seed) for seed in (0, 1))
        loss = self._losses(component, batch, False)["loss"]
        other_x = self._losses(component, {**batch, "x": other["x"]}, False)["loss"]
        assert not np.allclose(loss, other_x, rtol=1e-6), "'loss' is the same for any x: the data are not used"
        other_text = self._losses(component, {**batch, "condition": other["condition"]}, False)["loss"]
        assert not self.conditional or not np.allclose(loss, other_text, rtol=1e-6), (
            "'loss' is the same for any text: the condition is not used"
        )

    # ---- sampling -------------------------------------------------------------------------------------------------

    _shared: ClassVar[tuple[Generator, dict[str, Runner]]]

    def _sampler(self) -> Generator:
        """A component as after some training: one for all checks of a class, as tracing `generate` takes long."""
        cls = type(self)
        if "_shared" not in cls.__dict__:
            component: Generator = self.ready()
            perturb(component)
            cls._shared = (component, {})
        return cls._shared[0]

    def _generate(self, batch: Batch, given: Options) -> np.ndarray:
        """Samples as the pipeline does: traced, or compiled, as a whole."""
        component = self._sampler()
        runners = self._shared[1]
        if repr(given) not in runners:
            runners[repr(given)] = sampling_runner(component, given)
        return runners[repr(given)].run(batch)  # type: ignore[no-any-return]

    def _sampling_batch(self, component: Generator, given: Options, seed: int = 0) -> Batch:
        condition = random_conditions(component.condition_space, BATCH, seed=0)
        null = rows(random_conditions(component.condition_space, 1, seed=9), [0] * BATCH)
        noise = draw(component.noise_spec(**given), [(seed, copy) for copy in range(BATCH)])
        return {"condition": condition, "null": null, **({"noise": noise} if noise else {})}

    def test_generate_options(self) -> None:
        """Named, typed, each with a default, and `noise_spec` takes the same."""
        component = self.build()
        for given in self.generate_options:
            check_method_options(type(component).generate, given)
        defaults = {name: p.default for name, p in options(type(component).generate).items()}
        for given in ({}, defaults, *self.generate_options):
            specs = component.noise_spec(**given)
            assert all(isinstance(spec, NoiseSpec) for spec in specs.values()), (
                f"noise_spec must return NoiseSpecs by name, not {specs}"
            )

    def test_generates_what_the_space_says(self) -> None:
        component = self._sampler()
        for given in self.generate_options:
            x = self._generate(self._sampling_batch(component, given), given)
            check_in_space(x, component.space, BATCH, f"generate({_show(given)})")
        assert len(component.variables) == len(self.ready().variables), (
            "generate creates weights: create them where training does"
        )
        check_built(component)

    def test_same_noise_same_sample(self) -> None:
        """Pictures depend on the noise that they are given alone, not on any state or seed of the generator."""
        component = self._sampler()
        for given in self.generate_options:
            batch = self._sampling_batch(component, given)
            reseed(component, 1)
            with unchanged(component):
                first = self._generate(batch, given)
            reseed(component, 2)
            second = self._generate(batch, given)
            assert np.allclose(first, second, atol=1e-6), (
                f"generate({_show(given)}) with the same noise makes another sample: draw no random numbers in it but "
                f"those that noise_spec declares (a 'key' gives as many as wanted, through kgen.random)"
            )

    def test_other_noise_other_sample(self) -> None:
        component = self._sampler()
        for given in self.generate_options:
            first, second = (self._generate(self._sampling_batch(component, given, seed), given) for seed in (0, 1))
            same = np.allclose(first, second, atol=1e-6)
            assert self.deterministic or not same, f"generate({_show(given)}) makes the same sample from other noise"

    def test_alone_as_in_a_batch(self) -> None:
        """A picture depends on its own row of the arguments alone."""
        component = self._sampler()
        for given in self.generate_options:
            batch = self._sampling_batch(component, given)
            together = self._generate(batch, given)
            for index in (0, BATCH - 1):
                alone = self._generate(rows(batch, slice(index, index + 1)), given)
                np.testing.assert_allclose(
                    alone[0],
                    together[index],
                    rtol=0,
                    atol=self.tolerance,
                    err_msg=f"generate({_show(given)}): picture {index} differs alone and in a batch",
                )

    def test_guidance_as_declared(self) -> None:
        component = self._sampler()
        named = "guidance" in options(type(component).generate)
        assert named == component.guidable, (
            f"guidable is {component.guidable}, but generate {'takes' if named else 'does not take'} 'guidance'"
        )
        if not named:
            return
        given = dict(self.generate_options[0])
        batch = self._sampling_batch(component, given)
        weak, strong = (self._generate(batch, {**given, "guidance": w}) for w in (1.0, 4.0))
        assert np.isfinite(strong).all(), "generate(guidance=4.0) is not finite"
        assert not np.allclose(weak, strong, atol=1e-6), "generate makes the same sample whatever the guidance"

    def test_generates_in_mixed_precision(self) -> None:
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            component = self.ready()
            perturb(component)
            given = self.generate_options[0]
            x = sampling_runner(component, given).run(self._sampling_batch(component, given))
        finally:
            keras.config.set_dtype_policy(before)
        check_in_space(x, component.space, BATCH, f"generate({_show(given)}) in mixed precision")

    # ---- editing --------------------------------------------------------------------------------------------------

    def test_edits_as_declared(self) -> None:
        component = self._sampler()
        known = inspect.signature(type(component).generate).parameters
        for declared, argument in (("edits", "source"), ("inpaints", "region")):
            assert (argument in known) == getattr(component, declared), (
                f"{declared} is {getattr(component, declared)}, but generate "
                f"{'takes' if argument in known else 'does not take'} '{argument}'"
            )
        assert "strength" in known or not component.edits, "edits is True, but generate does not take 'strength'"
        assert component.edits or not component.inpaints, "inpaints is True, but edits is not"

    def test_draws_a_region_anew_and_keeps_the_rest(self) -> None:
        component = self._sampler()
        if not component.inpaints or len(component.space.shape) < 2:  # a sequence has no region
            return
        source = random_latents(component.space, BATCH, 2)
        region = np.random.default_rng(0).random((BATCH, *component.space.shape[:2])) < 0.5  # another for each row
        for given in self.generate_options:
            batch = {**self._sampling_batch(component, given), "source": source, "region": region}
            x = sampling_runner(component, given).run(batch)
            check_in_space(x, component.space, BATCH, f"generate({_show(given)}) of a region")
            assert np.array_equal(x[~region], source[~region]), f"generate({_show(given)}) changes more than its region"
            assert not np.array_equal(x, source), f"generate({_show(given)}) draws nothing of its region anew"
            alone = sampling_runner(component, given).run(rows(batch, slice(1, 2)))
            np.testing.assert_allclose(
                alone[0], x[1], rtol=0, atol=self.tolerance, err_msg="a region is drawn otherwise alone and in a batch"
            )

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def test_likelihood_as_declared(self) -> None:
        component = self._sampler()
        has = type(component).log_likelihood is not Generator.log_likelihood
        assert has == (component.likelihood is not None), (
            f"likelihood is {component.likelihood!r}, but log_likelihood is {'' if has else 'not '}implemented"
        )
        if not has:
            return
        batch = self.loss_batch(component)
        changed = {**batch, "x": np.concatenate([random_latents(component.space, 1, 1), batch["x"][1:]])}

        def function(b: Batch, training: bool) -> Any:
            return component.log_likelihood(b["x"], b["condition"], **self.likelihood_options)

        runner = Runner(component, function)
        with unchanged(component):
            first = runner.run(batch)
        with unchanged(component):
            second = runner.run(changed)
        assert first.shape == (BATCH,), f"log_likelihood must be one number an example, (B,), not {first.shape}"
        assert np.isfinite(first).all(), f"log_likelihood is not finite: {first}"
        assert not np.isclose(first[0], second[0], rtol=1e-7), "log_likelihood does not depend on x"
        np.testing.assert_allclose(
            second[1:], first[1:], rtol=1e-4, atol=1e-4, err_msg="log_likelihood mixes the examples of a batch"
        )


def sampling_runner(component: Generator, given: Options) -> Runner:
    """`generate` with one set of options, as a Keras model."""

    def function(batch: Batch, training: bool) -> Any:
        source = {name: batch[name] for name in ("source", "region") if name in batch}
        return component.generate(batch["condition"], batch["null"], batch.get("noise", {}), **source, **given)

    return Runner(component, function)


def _show(given: Options) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in given.items())
