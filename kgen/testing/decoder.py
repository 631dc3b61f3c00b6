"""The requirements of decoders."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from kgen.backend.devices import create_weights
from kgen.contracts.decoder import Decoder
from kgen.options import split_options
from kgen.random import sample
from kgen.spaces import ConditionSpace
from kgen.testing.bench import Bench
from kgen.testing.configuration import check_method_options
from kgen.testing.execution import Tensor, arrays, as_arrays, check_built, outline, reseed, rows, tensors
from kgen.testing.inputs import Images, check_in_space, constant_latents, random_conditions, random_latents, taller
from kgen.testing.losses import BATCH, Batch, LossConformance, save_and_load
from kgen.testing.state import check_tracked

Options = Mapping[str, Any]


class DecoderConformance(LossConformance):
    """Checks a decoder. Subclass it, and implement `build`, which returns a tiny decoder.

    If the decoder implements `compute_losses`, its losses are checked like those of a generator.
    """

    condition_space: ClassVar[ConditionSpace] = ConditionSpace(4, 8)
    """The space of the conditions that `decode` and `compute_losses` receive."""

    decode_options: ClassVar[Sequence[Options]] = ({},)
    """Sets of options of `decode`, each of which is checked. Most checks take the first."""

    reconstruction: ClassVar[float | None] = None
    """Largest mean absolute error of decode(encode(images)) without training; 0.0 for a lossless decoder."""

    latent_deviation: ClassVar[tuple[float, float] | None] = None
    """Smallest and largest standard deviation of the latents; None: about 1, or, without `calibrate`, from 0.1 to
    10."""

    tolerance: ClassVar[float] = 1e-4
    """Largest difference of a latent or image between a batch of one and a larger batch."""

    # ---- losses, if the decoder is trained ------------------------------------------------------------------------

    @property
    def trains(self) -> bool:
        return type(self.example()).compute_losses is not Decoder.compute_losses

    def loss_batch(self, component: Decoder, seed: int = 0) -> Batch:
        return {
            "images": random_latents(component.image_space, BATCH, seed),
            "condition": random_conditions(self.condition_space, BATCH, seed),
        }

    def loss_of(self, component: Decoder, batch: Batch, training: bool) -> Mapping[str, Any]:
        return component.compute_losses(batch["images"], batch["condition"], training)

    def flat_batch(self, component: Decoder, level: float) -> Batch:
        return {**self.loss_batch(component), "images": constant_latents(component.image_space, BATCH, level)}

    def ready(self) -> Decoder:
        """Returns a new component that has all its weights, initialized and calibrated on images."""
        component = self._with_weights(self.build())
        component.initialize(Images(component.image_space))
        component.calibrate(Images(component.image_space))
        return component

    def _with_weights(self, component: Decoder) -> Decoder:
        component.build(None)
        batch = tensors(self.loss_batch(component))
        if self.trains:
            create_weights(self._function(component, training=False), batch)
        create_weights(lambda batch: self._call(component, batch, self.decode_options[0]), batch)
        component.built = True
        return component

    def _call(self, component: Decoder, batch: Batch, given: Options) -> None:
        latent = component.encode(batch["images"])
        noise = tensors(sample(component.noise_spec(**given), [(0, copy) for copy in range(BATCH)]))
        component.decode(latent, batch["condition"], noise, **given)

    # ---- both directions ------------------------------------------------------------------------------------------

    def _encode(self, bench: Bench, images: np.ndarray) -> np.ndarray:
        return arrays(self._latents(bench, images))  # type: ignore[no-any-return]

    def _latents(self, bench: Bench, images: np.ndarray) -> Tensor:
        return bench.evaluate("encode", bench.component.encode, images)

    def _decode(self, bench: Bench, batch: Batch, given: Options) -> np.ndarray:
        return arrays(self._images(bench, batch, given))  # type: ignore[no-any-return]

    def _images(self, bench: Bench, batch: Batch, given: Options) -> Tensor:
        """Decodes like the pipeline: traced or compiled as a whole."""
        static, numbers = split_options(type(bench.component).decode, given)

        def function(b: Batch) -> Any:
            noise = b.get("noise", {})
            return bench.component.decode(b["latent"], b["condition"], noise, **static, **b.get("numbers", {}))

        arguments = {**batch, **({"numbers": as_arrays(numbers)} if numbers else {})}
        return bench.program(f"decode({static!r}, {sorted(numbers)})", function).compute(arguments)

    def _decoding_batch(self, bench: Bench, given: Options) -> Batch:
        images = self.loss_batch(bench.component)["images"]
        noise = sample(bench.component.noise_spec(**given), [(0, copy) for copy in range(BATCH)])
        return {
            "latent": self._encode(bench, images),
            "condition": random_conditions(self.condition_space, BATCH, 0),
            **({"noise": noise} if noise else {}),
        }

    def test_decode_options(self) -> None:
        component = self.example()
        for given in self.decode_options:
            check_method_options(type(component).decode, given)
            component.noise_spec(**given)

    def test_encodes_into_the_latent_space(self) -> None:
        bench = self.bench(perturbed=True)
        component = bench.component
        assert component.image_space.kind == "continuous", "image_space must be continuous"
        latent = self._latents(bench, self.loss_batch(component)["images"])
        check_in_space(latent, component.latent_space, BATCH, "encode")

    def test_decodes_into_the_image_space(self) -> None:
        bench = self.bench(perturbed=True)
        for given in self.decode_options:
            images = self._images(bench, self._decoding_batch(bench, given), given)
            check_in_space(images, bench.component.image_space, BATCH, "decode")
        assert len(bench.component.variables) == bench.count, "decode creates weights: create them before"

    def test_all_layers_are_built(self) -> None:
        """Checks that all layers are built, also if the decoder is only used for sampling.

        It samples with the default options, but in at most two steps: TensorFlow would compute each of them eagerly.
        """
        component = self.build()
        component.build(None)
        given = component.limit_passes({}, 2)
        create_weights(lambda batch: self._call(component, batch, given), tensors(self.loss_batch(component)))
        check_built(component)

    def test_decodes_any_latent(self) -> None:
        """Checks decoding of latents that do not come from `encode`."""
        bench = self.bench(perturbed=True)
        given = self.decode_options[0]
        batch = self._decoding_batch(bench, given)
        batch["latent"] = random_latents(bench.component.latent_space, BATCH, seed=3)
        check_in_space(self._images(bench, batch, given), bench.component.image_space, BATCH, "decode")

    def test_supports_the_sizes_that_it_accepts(self) -> None:
        """Checks encoding, decoding and losses of images of twice the height, if `check_space` accepts them."""
        bench = self.bench(perturbed=True)
        component = bench.component
        space = taller(component, component.image_space)
        if space is None:
            return
        other = component.resized(space)
        assert other.image_space == space, f"resized({space}) returns a decoder of {other.image_space}"
        noise = sample(other.noise_spec(**self.decode_options[0]), [(0, copy) for copy in range(BATCH)])
        batch = {**self.loss_batch(component), "images": random_latents(space, BATCH, 0), "noise": noise}

        def both(b: Batch) -> tuple[Tensor, Tensor]:
            latent = other.encode(b["images"])
            return latent, other.decode(latent, b["condition"], b["noise"], **self.decode_options[0])

        try:
            latent, images = outline(other, both, batch)
            losses = outline(other, self._function(other, True), batch) if self.trains else {}
        except Exception as error:
            raise AssertionError(f"check_space accepts {space}, but then a method fails: {error!r}") from error
        found = {"encode": (latent, other.latent_space.shape), "decode": (images, space.shape)}
        found |= {f"'{name}'": (loss, ()) for name, loss in losses.items()}
        for name, (made, shape) in found.items():
            assert tuple(made.shape) == (BATCH, *shape), (
                f"for {space}, {name} must have the shape {(BATCH, *shape)}, not {tuple(made.shape)}"
            )
        assert len(component.variables) == bench.count, f"the decoder has more weights for {space}"

    def test_latents_have_unit_variance(self) -> None:
        """Checks that latents have about unit variance, like the noise of generators. Images are exempt."""
        bench = self.bench()
        component = bench.component
        if component.latent_space.kind == "tokens" or component.latent_is_image:
            return
        images = np.concatenate(list(Images(component.image_space))).astype("float32") / 127.5 - 1.0
        deviation = float(np.concatenate([self._encode(bench, images[i : i + 4]) for i in range(0, 24, 4)]).std())
        measured = type(component).calibrate is not Decoder.calibrate
        least, greatest = self.latent_deviation or ((0.5, 2.0) if measured else (0.1, 10.0))
        assert least <= deviation <= greatest, (
            f"the latents' standard deviation is {deviation:.3g}, not between {least} and {greatest}: scale them in "
            "encode, and back in decode; measure by how much in calibrate"
        )

    def test_images_depend_on_the_latent(self) -> None:
        bench = self.bench(perturbed=True)
        for given in self.decode_options:
            batch = self._decoding_batch(bench, given)
            batch["latent"] = random_latents(bench.component.latent_space, BATCH, seed=3)
            other = {**batch, "latent": random_latents(bench.component.latent_space, BATCH, seed=4)}
            assert not np.allclose(self._decode(bench, batch, given), self._decode(bench, other, given), atol=1e-6), (
                f"decode({given}) makes the same images of any latents"
            )

    def test_kgen_knows_its_weights_and_seeds(self) -> None:
        super().test_kgen_knows_its_weights_and_seeds()
        component = self.bench().component
        check_tracked(component, lambda b: component.encode(b["images"]), self.loss_batch(component))

    def test_alone_as_in_a_batch(self) -> None:
        bench = self.bench(perturbed=True)
        images, others = (self.loss_batch(bench.component, seed)["images"] for seed in (0, 1))
        together = self._encode(bench, images)[:1]
        among_others = np.concatenate([images[:1], others[1:]])
        _same(together, self._encode(bench, among_others)[:1], self.tolerance, "encode, among other images,")
        _same(together, self._encode(bench, images[:1]), self.tolerance, "encode, alone,")
        for number, given in enumerate(self.decode_options):
            batch = self._decoding_batch(bench, given)
            together = self._decode(bench, batch, given)[:1]
            swapped = self._decode(bench, rows(batch, [0, 2, 3, 1]), given)[:1]
            _same(together, swapped, self.tolerance, "decode, among other latents,")
            if keras.backend.backend() != "jax" or number == 0:  # JAX compiles for every batch size
                _same(together, self._decode(bench, rows(batch, slice(0, 1)), given), self.tolerance, "decode, alone,")

    def test_same_input_same_output(self) -> None:
        """Checks that encode and decode use no random numbers except those that noise_spec declares."""
        bench = self.bench(perturbed=True)
        for given in self.decode_options:
            made = []
            for seed in (1, 2):
                reseed(bench.component, seed)
                batch = self._decoding_batch(bench, given)
                made.append((batch["latent"], self._decode(bench, batch, given)))
            _same(made[0][0], made[1][0], 1e-6, "encode")
            _same(made[0][1], made[1][1], 1e-6, "decode")

    def test_lossless_as_declared(self) -> None:
        assert self.example().lossless == (self.reconstruction == 0.0), (
            "a decoder is lossless if its reconstruction error is 0.0: set 'lossless', and 'reconstruction' here"
        )

    def test_reconstructs(self) -> None:
        if self.reconstruction is None:
            return
        bench = self.bench()
        given = self.decode_options[0]
        images = self.loss_batch(bench.component)["images"]
        error = float(np.abs(self._decode(bench, self._decoding_batch(bench, given), given) - images).mean())
        assert error <= self.reconstruction, (
            f"decode(encode(images)) is {error:.3g} off, more than {self.reconstruction}"
        )

    def test_weights_survive_a_file(self) -> None:
        bench = self.bench(perturbed=True)
        with tempfile.TemporaryDirectory() as folder:
            bench.component.save_assets(folder)
            again: Decoder = self.build()
            again.load_assets(folder)
            assert again.latent_space == bench.component.latent_space, (
                f"after load_assets, latent_space is {again.latent_space}; it was {bench.component.latent_space}"
            )
            other = Bench(save_and_load(bench.component, self._with_weights(again), Path(folder)))
        given = self.decode_options[0]
        first, second = (self._decoding_batch(b, given) for b in (bench, other))
        _same(first["latent"], second["latent"], 1e-5, "encode, after a round trip of assets and weights,")
        before, after = (self._decode(b, first, given) for b in (bench, other))
        _same(before, after, 1e-5, "decode, after a round trip of assets and weights,")


def _same(first: np.ndarray, second: np.ndarray, tolerance: float, what: str) -> None:
    np.testing.assert_allclose(
        second, first, rtol=0, atol=tolerance, err_msg=f"{what} gives something else the second time"
    )
