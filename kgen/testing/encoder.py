"""What every encoder must fulfil."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from kgen.components.encoder import Encoder
from kgen.testing.configuration import ConfigurationConformance
from kgen.testing.execution import Runner, arrays, gradients, perturb, tensors
from kgen.testing.losses import check_gradients, save_and_load

Tokens = dict[str, np.ndarray]
Conditions = dict[str, np.ndarray]


class EncoderConformance(ConfigurationConformance):
    """Checks an encoder: subclass it, and give `build`, which returns a tiny one (neither adapted nor loaded)."""

    texts: ClassVar[Sequence[str]] = ("red heart", "a big blue circle", "smiley", "grüne Äpfel 🍏")
    """What it learns from, and is tried on; at least two, of different lengths."""

    distinguishes: ClassVar[bool] = True
    """False for an encoder that makes the same condition of every text."""

    no_gradient: ClassVar[tuple[str, ...]] = ()
    """Patterns of the paths of trainable weights that rightly have no gradient on `texts`."""

    tolerance: ClassVar[float] = 1e-4
    """How far a condition may differ alone and in a batch."""

    def adapted(self) -> Encoder:
        encoder: Encoder = self.build()
        encoder.adapt(self.texts)
        return encoder

    def ready(self) -> Encoder:
        """Adapted, with all its weights."""
        encoder = self.adapted()
        encoder(tensors(encoder.tokenize([""])))
        return encoder

    def _encode(self, encoder: Encoder, texts: Sequence[str]) -> Conditions:
        return arrays(dict(encoder(tensors(encoder.tokenize(texts)))))  # type: ignore[no-any-return]

    @property
    def _hard_texts(self) -> list[str]:
        return [*self.texts, "", " ", "word " * 500, "\U0001f49c \u4e2d\u6587 \u0645\u0631\u062d\u0628\u0627 \x00\n"]

    # ---- tokens ---------------------------------------------------------------------------------------------------

    def test_tokens_are_plain_arrays_of_fixed_shape(self) -> None:
        """On the host (they may cross process borders), and of types that every backend has."""
        encoder = self.adapted()
        expected = {name: array.shape[1:] for name, array in encoder.tokenize([""]).items()}
        for texts in ([text] for text in self._hard_texts), [self._hard_texts]:
            for batch in texts:
                tokens = encoder.tokenize(batch)
                assert tokens, "tokenize must return at least one array"
                for name, array in tokens.items():
                    assert type(array) is np.ndarray, f"tokenize: '{name}' must be a numpy array, not {type(array)}"
                    assert array.dtype.kind in "iufb" and array.dtype.itemsize <= 4, (
                        f"tokenize: '{name}' must be a type that every backend has (int32, float32), not {array.dtype}"
                    )
                    assert array.shape == (len(batch), *expected[name]), (
                        f"tokenize: '{name}' must have the shape {(len(batch), *expected[name])} for any "
                        f"{len(batch)} texts, not {array.shape}"
                    )

    def test_tokens_of_a_text_are_always_the_same(self) -> None:
        """Alone, in a batch, and from several threads, as the loader reads."""
        encoder = self.adapted()
        texts = self._hard_texts
        together = encoder.tokenize(texts)
        with ThreadPoolExecutor(4) as pool:
            alone = list(pool.map(lambda text: encoder.tokenize([text]), texts * 4))
        for index, tokens in enumerate(alone):
            for name, array in tokens.items():
                assert np.array_equal(array[0], together[name][index % len(texts)]), (
                    f"tokenize: '{name}' of {texts[index % len(texts)]!r} differs alone and in a batch, or by thread"
                )

    # ---- conditions -----------------------------------------------------------------------------------------------

    def test_conditions_are_what_the_space_says(self) -> None:
        encoder = self.ready()
        space = encoder.condition_space
        texts = self._hard_texts
        condition = self._encode(encoder, texts)
        shapes = {
            "sequence": (len(texts), space.length, space.dim),
            "mask": (len(texts), space.length),
            "pooled": (len(texts), space.pooled_dim),
        }
        assert set(condition) == set(shapes), f"call must return {sorted(shapes)}, not {sorted(condition)}"
        for name, shape in shapes.items():
            value = condition[name]
            assert value.shape == shape, f"'{name}' must have the shape {shape}, not {value.shape}: {space}"
            assert value.dtype.kind == "f", f"'{name}' must be floating point, not {value.dtype}"
            assert np.isfinite(value).all(), f"'{name}' is not finite"
        assert np.isin(condition["mask"], (0.0, 1.0)).all(), "'mask' must be 0.0 or 1.0"
        assert condition["mask"].any(axis=1).all(), (
            "'mask' must have at least one 1.0 a text, the empty one too: attention over nothing is not a number"
        )

    def test_texts_are_told_apart(self) -> None:
        condition = self._encode(self.ready(), self.texts)
        for name in ("sequence", "pooled"):
            same = np.allclose(condition[name][0], condition[name][1], atol=1e-6)
            assert self.distinguishes != same, (
                f"'{name}' of {self.texts[0]!r} and {self.texts[1]!r} is {'the same' if same else 'different'}"
            )

    def test_batch_neighbours_change_nothing(self) -> None:
        """Neither padding nor statistics of the batch leak into a condition."""
        encoder = self.ready()
        perturb(encoder)
        together = self._encode(encoder, self._hard_texts)
        for index, text in enumerate(self._hard_texts):
            alone = self._encode(encoder, [text])
            for name, value in alone.items():
                np.testing.assert_allclose(
                    value[0],
                    together[name][index],
                    rtol=0,
                    atol=self.tolerance,
                    err_msg=f"'{name}' of {text[:30]!r} differs alone and in a batch",
                )

    def test_traced_as_eager(self) -> None:
        """Inside `predict`, which traces or compiles it, an encoder does the same."""
        encoder = self.ready()
        tokens = encoder.tokenize(self.texts)
        eager = self._encode(encoder, self.texts)
        traced = Runner(encoder, lambda batch, training: dict(encoder(batch, training=training))).run(tokens)
        for name in eager:
            np.testing.assert_allclose(
                traced[name], eager[name], rtol=0, atol=self.tolerance, err_msg=f"'{name}' differs when it is traced"
            )

    # ---- weights --------------------------------------------------------------------------------------------------

    def test_every_weight_has_a_gradient(self) -> None:
        """Every trainable one; a frozen encoder has none."""
        encoder = self.ready()
        if not encoder.trainable_variables:
            return
        perturb(encoder)
        tokens = tensors(encoder.tokenize(self.texts))
        condition = self._encode(encoder, self.texts)
        rng = np.random.default_rng(0)
        shares = {name: rng.standard_normal(condition[name].shape) for name in ("sequence", "pooled")}
        shares["sequence"] = shares["sequence"] * condition["mask"][..., None]  # (B, L, D): what generators see
        weights = {name: ops.convert_to_tensor(share.astype("float32")) for name, share in shares.items()}

        def score() -> Any:
            made = encoder(tokens, training=True)
            return ops.sum(made["sequence"] * weights["sequence"]) + ops.sum(made["pooled"] * weights["pooled"])

        check_gradients(gradients(encoder, score), self.no_gradient)

    def test_assets_and_weights_survive_files(self) -> None:
        encoder = self.ready()
        with tempfile.TemporaryDirectory() as folder:
            encoder.save_assets(folder)
            again: Encoder = self.build()
            again.load_assets(folder)
            assert again.condition_space == encoder.condition_space, (
                f"after load_assets, condition_space is {again.condition_space}; it was {encoder.condition_space}"
            )
            again(tensors(again.tokenize([""])))
            save_and_load(encoder, again, Path(folder))
        first, second = (e.tokenize(self._hard_texts) for e in (encoder, again))
        for name in first:
            assert np.array_equal(first[name], second[name]), f"tokenize: '{name}' differs after a round trip of assets"
        before, after = (self._encode(e, self.texts) for e in (encoder, again))
        for name in before:
            np.testing.assert_allclose(
                after[name],
                before[name],
                atol=1e-6,
                err_msg=f"'{name}' differs after a round trip of assets and weights",
            )

    def test_mixed_precision(self) -> None:
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            condition = self._encode(self.ready(), self.texts)
        finally:
            keras.config.set_dtype_policy(before)
        for name, value in condition.items():
            assert np.isfinite(value).all(), f"'{name}' is not finite in mixed precision"
