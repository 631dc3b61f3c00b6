"""What every decoder must fulfil."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kgen.components.decoder import Decoder
from kgen.random import draw
from kgen.spaces import ConditionSpace
from kgen.testing.configuration import check_method_options
from kgen.testing.execution import Runner, arrays, check_built, perturb, reseed, rows, tensors, unchanged
from kgen.testing.inputs import check_in_space, random_conditions, random_latents
from kgen.testing.losses import BATCH, Batch, LossConformance, save_and_load

Options = Mapping[str, Any]


class DecoderConformance(LossConformance):
    """Checks a decoder: subclass it, and give `build`, which returns a tiny one.

    One that implements `compute_losses` is checked as a generator's losses are.
    """

    condition_space: ClassVar[ConditionSpace] = ConditionSpace(4, 8)
    """Of the conditions that `decode` and `compute_losses` get."""

    decode_options: ClassVar[Sequence[Options]] = ({},)
    """Options of `decode` to check, each set by itself."""

    reconstruction: ClassVar[float | None] = None
    """Mean absolute error of decode(encode(images)) allowed without training: 0.0 for a lossless decoder."""

    tolerance: ClassVar[float] = 1e-4
    """How far a latent or picture may differ alone and in a batch."""

    # ---- losses, where the decoder is trained ---------------------------------------------------------------------

    @property
    def _trains(self) -> bool:
        return type(self.build()).compute_losses is not Decoder.compute_losses

    def loss_batch(self, component: Decoder, seed: int = 0) -> Batch:
        return {
            "images": random_latents(component.image_space, BATCH, seed),
            "condition": random_conditions(self.condition_space, BATCH, seed),
        }

    def loss_of(self, component: Decoder, batch: Batch, training: bool) -> Mapping[str, Any]:
        return component.compute_losses(batch["images"], batch["condition"], training)

    def ready(self) -> Decoder:
        return self._with_weights(self.build())

    def _with_weights(self, component: Decoder) -> Decoder:
        component.build(None)
        batch = tensors(self.loss_batch(component))
        if self._trains:
            component.compute_losses(batch["images"], batch["condition"], training=False)
        self._call(component, batch)
        component.built = True
        return component

    def _call(self, component: Decoder, batch: Batch) -> None:
        latent = component.encode(batch["images"])
        noise = tensors(draw(component.noise_spec(), [(0, copy) for copy in range(BATCH)]))
        component.decode(latent, batch["condition"], noise)

    def test_losses_are_finite_and_per_example(self) -> None:
        if self._trains:
            super().test_losses_are_finite_and_per_example()

    def test_losses_do_not_mix_examples(self) -> None:
        if self._trains:
            super().test_losses_do_not_mix_examples()

    def test_every_weight_has_a_gradient(self) -> None:
        if self._trains:
            super().test_every_weight_has_a_gradient()

    def test_no_weights_appear_late(self) -> None:
        if self._trains:
            super().test_no_weights_appear_late()

    def test_overfits_one_batch(self) -> None:
        if self._trains:
            super().test_overfits_one_batch()

    def test_two_replicas_train_in_step(self) -> None:
        if self._trains:
            super().test_two_replicas_train_in_step()

    def test_mixed_precision(self) -> None:
        if self._trains:
            super().test_mixed_precision()

    # ---- both directions ------------------------------------------------------------------------------------------

    _shared: ClassVar[tuple[Decoder, dict[str, Runner]]]

    def _coder(self) -> Decoder:
        """A component as after some training: one for all checks of a class, as compiling `decode` takes long."""
        cls = type(self)
        if "_shared" not in cls.__dict__:
            component = self.ready()
            perturb(component)
            cls._shared = (component, {})
        return cls._shared[0]

    def _encode(self, component: Decoder, images: np.ndarray) -> np.ndarray:
        with unchanged(component):
            return arrays(component.encode(tensors(images)))  # type: ignore[no-any-return]

    def _decode(self, component: Decoder, batch: Batch, given: Options) -> np.ndarray:
        """Decodes as the pipeline does: traced, or compiled, as a whole; the shared component once an option set."""

        def function(b: Batch, training: bool) -> Any:
            return component.decode(b["latent"], b["condition"], b.get("noise", {}), **given)

        shared, runners = type(self).__dict__.get("_shared", (None, {}))
        runner = runners.get(repr(given)) if component is shared else None
        if runner is None:
            runner = Runner(component, function)
        if component is shared:
            runners[repr(given)] = runner
        return runner.run(batch)  # type: ignore[no-any-return]

    def _decoding_batch(self, component: Decoder, given: Options) -> Batch:
        images = self.loss_batch(component)["images"]
        noise = draw(component.noise_spec(**given), [(0, copy) for copy in range(BATCH)])
        return {
            "latent": self._encode(component, images),
            "condition": random_conditions(self.condition_space, BATCH, 0),
            **({"noise": noise} if noise else {}),
        }

    def test_decode_options(self) -> None:
        component = self.build()
        for given in self.decode_options:
            check_method_options(type(component).decode, given)
            component.noise_spec(**given)

    def test_encodes_into_the_latent_space(self) -> None:
        component = self._coder()
        assert component.image_space.kind == "continuous", "image_space must be continuous"
        latent = self._encode(component, self.loss_batch(component)["images"])
        check_in_space(latent, component.latent_space, BATCH, "encode")

    def test_decodes_into_the_image_space(self) -> None:
        component = self._coder()
        for given in self.decode_options:
            images = self._decode(component, self._decoding_batch(component, given), given)
            check_in_space(images, component.image_space, BATCH, "decode")
        before = len(self.ready().variables)
        assert len(component.variables) == before, "decode creates weights: create them before"

    def test_builds_all_that_it_has(self) -> None:
        """Also where it only draws, and nothing of its training was called."""
        component = self.build()
        component.build(None)
        self._call(component, tensors(self.loss_batch(component)))
        check_built(component)

    def test_decodes_any_latent(self) -> None:
        """A generator's latents are not those of `encode`."""
        component = self._coder()
        given = self.decode_options[0]
        batch = self._decoding_batch(component, given)
        batch["latent"] = random_latents(component.latent_space, BATCH, seed=3)
        check_in_space(self._decode(component, batch, given), component.image_space, BATCH, "decode")

    def test_alone_as_in_a_batch(self) -> None:
        component = self._coder()
        images = self.loss_batch(component)["images"]
        _same(self._encode(component, images)[:1], self._encode(component, images[:1]), self.tolerance, "encode")
        for given in self.decode_options:
            batch = self._decoding_batch(component, given)
            together, alone = (self._decode(component, b, given) for b in (batch, rows(batch, slice(0, 1))))
            _same(together[:1], alone, self.tolerance, "decode")

    def test_same_input_same_output(self) -> None:
        """Neither direction draws random numbers but those that noise_spec declares."""
        component = self._coder()
        for given in self.decode_options:
            made = []
            for seed in (1, 2):
                reseed(component, seed)
                batch = self._decoding_batch(component, given)
                made.append((batch["latent"], self._decode(component, batch, given)))
            _same(made[0][0], made[1][0], 1e-6, "encode")
            _same(made[0][1], made[1][1], 1e-6, "decode")

    def test_lossless_as_declared(self) -> None:
        assert self.build().lossless == (self.reconstruction == 0.0), (
            "a decoder is lossless where its reconstruction is 0.0 off: set 'lossless', and 'reconstruction' here"
        )

    def test_reconstructs(self) -> None:
        if self.reconstruction is None:
            return
        component = self.ready()
        given = self.decode_options[0]
        images = self.loss_batch(component)["images"]
        error = float(np.abs(self._decode(component, self._decoding_batch(component, given), given) - images).mean())
        assert error <= self.reconstruction, (
            f"decode(encode(images)) is {error:.3g} off, more than {self.reconstruction}"
        )

    def test_weights_survive_a_file(self) -> None:
        component = self._coder()
        with tempfile.TemporaryDirectory() as folder:
            component.save_assets(folder)
            again: Decoder = self.build()
            again.load_assets(folder)
            assert again.latent_space == component.latent_space, (
                f"after load_assets, latent_space is {again.latent_space}; it was {component.latent_space}"
            )
            again = save_and_load(component, self._with_weights(again), Path(folder))
        given = self.decode_options[0]
        first, second = (self._decoding_batch(c, given) for c in (component, again))
        _same(first["latent"], second["latent"], 1e-5, "encode, after a round trip of assets and weights,")
        before, after = (self._decode(c, first, given) for c in (component, again))
        _same(before, after, 1e-5, "decode, after a round trip of assets and weights,")


def _same(first: np.ndarray, second: np.ndarray, tolerance: float, what: str) -> None:
    np.testing.assert_allclose(
        second, first, rtol=0, atol=tolerance, err_msg=f"{what} gives something else the second time"
    )
