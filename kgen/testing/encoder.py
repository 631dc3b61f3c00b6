"""The requirements of encoders."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from kgen.backend.devices import create_weights
from kgen.backend.precision import precision
from kgen.contracts.encoder import Encoder, has_losses
from kgen.contracts.inputs import input_key
from kgen.spaces import Space
from kgen.testing.bench import Bench
from kgen.testing.execution import arrays, reseed, tensors
from kgen.testing.inputs import Images, constant_latents, random_latents
from kgen.testing.losses import BATCH, Batch, LossConformance, check_gradients, save_and_load
from kgen.testing.state import check_names, check_seeds, check_tracked

Tokens = dict[str, np.ndarray]
Conditions = dict[str, np.ndarray]


class EncoderConformance(LossConformance):
    """Checks an encoder. Subclass it, and implement `build`, which returns a tiny one, neither adapted nor loaded.

    If the encoder implements `compute_losses`, its losses are checked like those of a generator.
    """

    inputs: ClassVar[Sequence[Any]] = ("red heart", "a big blue circle", "smiley", "grüne Äpfel 🍏")
    """Inputs for `adapt` and for the checks, of the encoder's `fields`: at least two, of different lengths."""

    distinguishes: ClassVar[bool] = True
    """False for an encoder that returns the same condition for every input."""

    pads: ClassVar[bool] = True
    """False for an encoder whose conditions have no padding."""

    image_space: ClassVar[Space] = Space("continuous", (8, 8, 3))
    """The space of the images that `compute_losses` receives."""

    tolerance: ClassVar[float] = 1e-4
    """Largest difference of a condition between a batch of one and a larger batch."""

    # ---- losses, if the encoder is trained in a stage --------------------------------------------------------------

    @property
    def trains(self) -> bool:
        return has_losses(type(self.example()))

    def loss_batch(self, component: Encoder, seed: int = 0) -> Batch:
        chosen = [self.inputs[(seed + row) % len(self.inputs)] for row in range(BATCH)]
        return {"images": random_latents(self.image_space, BATCH, seed), "tokens": component.tokenize(chosen)}

    def loss_of(self, component: Encoder, batch: Batch, training: bool) -> Mapping[str, Any]:
        return component.compute_losses(batch["images"], batch["tokens"], training)

    def flat_batch(self, component: Encoder, level: float) -> Batch:
        return {**self.loss_batch(component), "images": constant_latents(self.image_space, BATCH, level)}

    def test_weights_survive_a_file(self) -> None:
        """Checks that the saved weights have the same losses; those of conditions are checked with the assets."""
        if self.trains:
            super().test_weights_survive_a_file()

    def test_scores_are_numbers(self) -> None:
        """Checks the scores that a report shows, of a few images."""
        if not self.trains:
            return
        encoder: Encoder = self.bench().component
        images = next(iter(Images(self.image_space)))[: len(self.inputs)]
        for name, value in encoder.scores(images, list(self.inputs)[: len(images)]).items():
            assert isinstance(name, str) and np.isfinite(float(value)), (
                f"scores: '{name}' must be a number, not {value}"
            )

    # ---- building -------------------------------------------------------------------------------------------------

    def adapted(self) -> Encoder:
        encoder: Encoder = self.build()
        encoder.adapt(self.inputs)
        return encoder

    def ready(self) -> Encoder:
        """Returns an adapted encoder that has all its weights."""
        encoder = self.adapted()
        create_weights(encoder, tensors(encoder.null_tokens()))
        return encoder

    def _encode(self, bench: Bench, inputs: Sequence[Any]) -> Conditions:
        return arrays(self._conditions(bench, inputs))  # type: ignore[no-any-return]

    def _conditions(self, bench: Bench, inputs: Sequence[Any]) -> dict[str, Any]:
        """The conditions as tensors."""
        encoder: Encoder = bench.component
        return bench.evaluate("encode", lambda tokens: dict(encoder(tokens)), encoder.tokenize(inputs))  # type: ignore[no-any-return]

    @property
    def hard_inputs(self) -> list[Any]:
        """`inputs`, and other inputs that it must accept: the null input and, for captions, any text."""
        encoder = self.example()
        if encoder.fields != ("caption",):
            return [*self.inputs, encoder.null]
        return [*self.inputs, "", " ", "word " * 500, "\U0001f49c \u4e2d\u6587 \u0645\u0631\u062d\u0628\u0627 \x00\n"]

    # ---- fields ---------------------------------------------------------------------------------------------------

    def test_fields_are_named(self) -> None:
        encoder = self.example()
        fields, name = encoder.fields, type(encoder).__name__
        assert isinstance(fields, tuple) and fields and all(isinstance(field, str) for field in fields), (
            f"{name}.fields must be the names of the fields that it reads, a tuple of texts, not {fields!r}"
        )
        assert len(set(fields)) == len(fields), f"{name}.fields names a field twice: {fields}"
        for value in (encoder.null, *self.inputs):
            assert len(fields) == 1 or (isinstance(value, dict) and set(value) == set(fields)), (
                f"{name} reads {fields}: an input, and null, must be a mapping of these, not {value!r}"
            )
        assert input_key(encoder.null) == "", f"{name}.null must be None or the empty text, not {encoder.null!r}"

    # ---- tokens ---------------------------------------------------------------------------------------------------

    def test_tokens_are_plain_arrays_of_fixed_shape(self) -> None:
        """Checks that tokens are numpy arrays (other processes may get them), of types that every backend has."""
        encoder = self.adapted()
        expected = {name: array.shape[1:] for name, array in encoder.null_tokens().items()}
        for inputs in ([value] for value in self.hard_inputs), [self.hard_inputs]:
            for batch in inputs:
                tokens = encoder.tokenize(batch)
                assert tokens, "tokenize must return at least one array"
                for name, array in tokens.items():
                    assert type(array) is np.ndarray, f"tokenize: '{name}' must be a numpy array, not {type(array)}"
                    assert array.dtype.kind in "iufb" and array.dtype.itemsize <= 4, (
                        f"tokenize: '{name}' must be a type that every backend has (int32, float32), not {array.dtype}"
                    )
                    assert array.shape == (len(batch), *expected[name]), (
                        f"tokenize: '{name}' must have the shape {(len(batch), *expected[name])} for any "
                        f"{len(batch)} inputs, not {array.shape}"
                    )

    def test_tokens_of_an_input_are_always_the_same(self) -> None:
        """Checks the tokens of an input alone, in a batch, and from several threads, as in the data loader."""
        encoder = self.adapted()
        inputs = self.hard_inputs
        together = encoder.tokenize(inputs)
        with ThreadPoolExecutor(4) as pool:
            alone = list(pool.map(lambda value: encoder.tokenize([value]), inputs * 4))
        for index, tokens in enumerate(alone):
            what = str(inputs[index % len(inputs)])[:30]
            for name, array in tokens.items():
                assert np.array_equal(array[0], together[name][index % len(inputs)]), (
                    f"tokenize: '{name}' of {what!r} differs alone and in a batch, or by thread"
                )

    # ---- conditions -----------------------------------------------------------------------------------------------

    def test_conditions_are_in_the_space(self) -> None:
        bench = self.bench()
        space = bench.component.condition_space
        inputs = self.hard_inputs
        made = self._conditions(bench, inputs)
        condition = arrays(made)
        shapes = {
            "sequence": (len(inputs), space.length, space.dim),
            "mask": (len(inputs), space.length),
            "pooled": (len(inputs), space.pooled_dim),
        }
        assert set(condition) == set(shapes), f"call must return {sorted(shapes)}, not {sorted(condition)}"
        for name, shape in shapes.items():
            value = condition[name]
            assert value.shape == shape, f"'{name}' must have the shape {shape}, not {value.shape}: {space}"
            dtype = keras.backend.standardize_dtype(made[name].dtype)
            assert dtype == "float32", f"'{name}' must be float32, not {dtype}"
            assert np.isfinite(value).all(), f"'{name}' is not finite"
        assert np.isin(condition["mask"], (0.0, 1.0)).all(), "'mask' must be 0.0 or 1.0"
        assert condition["mask"].any(axis=1).all(), (
            "'mask' must have at least one 1.0 per input, also for the null one: attention over nothing is not a number"
        )

    def test_mask_covers_no_padding(self) -> None:
        """Checks that the null input has fewer real positions than the longest, if there is more than one."""
        bench = self.bench()
        if bench.component.condition_space.length == 1 or not self.pads:
            return
        empty, *others = self._encode(bench, [bench.component.null, *self.hard_inputs])["mask"].sum(axis=1)
        long = max(others)
        assert empty < long, (
            f"'mask' has {empty:.0f} real positions for the null input and {long:.0f} for a long one: it must be 0.0 "
            "for padding; if an encoder pads nothing, set pads = False in its test"
        )

    def test_same_input_same_condition(self) -> None:
        """Checks that an encoder uses no random numbers outside of training."""
        bench = self.bench(perturbed=True)
        made = []
        for seed in (1, 2):
            reseed(bench.component, seed)
            made.append(self._encode(bench, self.inputs))
        for name in made[0]:
            assert np.allclose(made[0][name], made[1][name], atol=1e-6), f"'{name}' differs from call to call"

    def test_kgen_knows_its_weights_and_seeds(self) -> None:
        encoder: Encoder = self.bench().component
        check_names(encoder)
        check_seeds(encoder)
        check_tracked(encoder, lambda tokens: dict(encoder(tokens)), encoder.tokenize(self.inputs))
        if self.trains:
            check_tracked(encoder, self._function(encoder, training=True), self.loss_batch(encoder))

    def test_texts_have_different_conditions(self) -> None:
        condition = self._encode(self.bench(), self.inputs)
        for name in ("sequence", "pooled"):
            same = np.allclose(condition[name][0], condition[name][1], atol=1e-6)
            assert self.distinguishes != same, (
                f"'{name}' of {self.inputs[0]!r} and {self.inputs[1]!r} is {'the same' if same else 'different'}"
            )

    def test_batch_neighbors_change_nothing(self) -> None:
        """Checks that neither padding nor statistics of the batch affect a condition."""
        bench = self.bench(perturbed=True)
        together = self._encode(bench, self.hard_inputs)
        for index, value in enumerate(self.hard_inputs):
            alone = self._encode(bench, [value])
            for name, value in alone.items():
                np.testing.assert_allclose(
                    value[0],
                    together[name][index],
                    rtol=0,
                    atol=self.tolerance,
                    err_msg=f"'{name}' of {str(value)[:30]!r} differs alone and in a batch",
                )

    def test_traced_as_eager(self) -> None:
        """Checks that an encoder returns the same in `predict`, which traces or compiles it."""
        bench = self.bench()
        encoder: Encoder = bench.component
        tokens = encoder.tokenize(self.inputs)
        eager = arrays(dict(encoder(tensors(tokens))))
        traced = bench.program("traced", lambda batch: dict(encoder(batch, training=False)))(tokens)
        for name in eager:
            np.testing.assert_allclose(
                traced[name], eager[name], rtol=0, atol=self.tolerance, err_msg=f"'{name}' differs when it is traced"
            )

    # ---- weights --------------------------------------------------------------------------------------------------

    def test_every_weight_has_a_gradient(self) -> None:
        """Checks the gradients of all trainable weights; a frozen encoder has none.

        They are those of the losses, if the encoder has any, else those of the conditions.
        """
        if self.trains:
            super().test_every_weight_has_a_gradient()
            return
        bench = self.bench(perturbed=True)
        encoder: Encoder = bench.component
        if not encoder.trainable_variables:
            return
        inputs = [*self.inputs, encoder.null]
        condition = self._encode(bench, inputs)
        rng = np.random.default_rng(0)
        shares = {name: rng.standard_normal(condition[name].shape) for name in ("sequence", "pooled")}
        shares["sequence"] = shares["sequence"] * condition["mask"][..., None]  # (B, L, D): what generators use
        weights = {name: ops.convert_to_tensor(share.astype("float32")) for name, share in shares.items()}

        def score(tokens: Any) -> dict[str, Any]:
            made = encoder(tokens, training=True)
            return {"loss": sum(ops.sum(made[name] * weights[name]) for name in ("sequence", "pooled"))}

        found = bench.descent(score).gradients(encoder.tokenize(inputs))
        check_gradients(found, self.no_gradient)

    def test_assets_and_weights_survive_files(self) -> None:
        bench = self.bench(perturbed=True)
        encoder: Encoder = bench.component
        with tempfile.TemporaryDirectory() as folder:
            encoder.save_assets(folder)
            again: Encoder = self.build()
            again.load_assets(folder)
            assert again.condition_space == encoder.condition_space, (
                f"after load_assets, condition_space is {again.condition_space}; it was {encoder.condition_space}"
            )
            create_weights(again, tensors(again.null_tokens()))
            save_and_load(encoder, again, Path(folder))
        first, second = (e.tokenize(self.hard_inputs) for e in (encoder, again))
        for name in first:
            assert np.array_equal(first[name], second[name]), f"tokenize: '{name}' differs after a round trip of assets"
        before, after = (self._encode(b, self.inputs) for b in (bench, Bench(again)))
        for name in before:
            np.testing.assert_allclose(
                after[name],
                before[name],
                atol=1e-6,
                err_msg=f"'{name}' differs after a round trip of assets and weights",
            )

    def test_mixed_precision(self) -> None:
        super().test_mixed_precision()
        with precision("mixed_bfloat16"):
            condition = self._encode(self.bench(), self.inputs)
        for name, value in condition.items():
            assert np.isfinite(value).all(), f"'{name}' is not finite in mixed precision"
