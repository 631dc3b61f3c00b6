"""Sampling from a pipeline, as one compiled program."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from kgen.backend.compiled import Compiled, call_on_host, repeated
from kgen.backend.devices import batch_devices
from kgen.backend.stream import Batch
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.contracts.generator import Generator
from kgen.errors import ConfigError, RunError, SpaceError
from kgen.options import check_options
from kgen.options.static import Numbers
from kgen.pipeline.guides import LoadedGuide
from kgen.pixels import floats, to_uint8
from kgen.previews import Listener, current_listener, showing
from kgen.random import NoiseSpec
from kgen.spaces import Space

Tensor = Any


class Sampler:
    """Generates images in [-1, 1], or latents, from tokens and noise, with one set of static options.

    A batch may contain images to start from, and a mask of the part of them that changes. Options that are numbers are
    also in the batch.

    Args:
        encoder, generator, decoder: The three parts, whose weights are shared.
        null_tokens: The tokens of the empty text, one row.
        options, decoder_options: The static options of `generate` and `decode`, which are compiled in: see
            `split_options`.
        loops: Whether an image takes several consecutive steps.
        guide: Another model that guides the generator.
        latents: Whether to return the latents, without decoding them.
        watched: Whether the steps are shown to a listener: see `kgen.watch_steps`.

    Raises:
        RunError: several devices share a batch of watched images.
    """

    def __init__(
        self,
        encoder: Encoder,
        generator: Generator,
        decoder: Decoder,
        null_tokens: dict[str, np.ndarray],
        options: dict[str, Any],
        decoder_options: dict[str, Any],
        loops: bool,
        guide: LoadedGuide | None = None,
        latents: bool = False,
        watched: bool = False,
    ) -> None:
        if watched and batch_devices() > 1:
            raise RunError("kgen.watch_steps works on one device only: generate without a distribution")
        self.latents = latents
        self.watched = watched
        self._listener: Listener | None = None
        self.guide = guide
        self.encoder = encoder
        self.generator = generator
        self.decoder = decoder
        self.null_tokens = null_tokens
        self.options = options, decoder_options
        self.parts: dict[str, Any] = {"encoder": encoder, "generator": generator, "decoder": decoder}
        self.parts |= {} if guide is None else guide.layers
        self.program = Compiled(self._sample, list(self.parts.values()), generator if loops else None, watched)

    def _sample(self, batch: Batch) -> dict[str, Any]:
        options, decoder_options = (
            {**static, **{name: values[0] for name, values in batch.get(numbers, {}).items()}}
            for static, numbers in zip(self.options, ("numbers", "decoder_numbers"), strict=True)
        )
        if self.guide is not None:
            options[self.guide.option] = self.guide.model(batch["guide_tokens"])
        condition = self.encoder(batch["tokens"])
        null = self.encoder(batch.get("negative", self.null_tokens))
        null = {name: ops.broadcast_to(null[name], ops.shape(value)) for name, value in condition.items()}
        source = {"source": self.decoder.encode(floats(batch["image"]))} if "image" in batch else {}
        source |= {"edit_mask": batch["edit_mask"]} if "edit_mask" in batch else {}

        def decode(latent: Tensor) -> Tensor:
            images = self.decoder.decode(latent, condition, batch.get("decoder", {}), **decoder_options)
            return ops.cast(images, "float32")

        def show(images: Tensor) -> None:
            call_on_host(self._deliver, ops.cast(images, "float32"), batch["row"])

        def show_latent(latent: Tensor) -> None:
            with showing(None):  # only the generator's steps are shown
                show(decode(latent))

        decoder_shows = _shows_steps(self.decoder, self.options[1])
        with showing(show_latent if self.watched and not decoder_shows else None):
            latent = self.generator.generate(condition, null, batch.get("generator", {}), **source, **options)
        with showing(show if self.watched and decoder_shows else None):
            made = latent if self.latents else decode(latent)
        weights = ops.stack([_finite(part.weights) for part in self.parts.values()])  # (P,)
        numbers = ops.reshape(ops.cast(made, "float32"), (ops.shape(made)[0], -1))  # (B, n)
        return {
            "made": made if self.latents else ops.clip(made, -1.0, 1.0),
            "finite": ops.all(ops.isfinite(numbers), axis=1),  # (B,), before clipping hides what is infinite
            "finite_weights": ops.broadcast_to(weights[None], (ops.shape(made)[0], len(self.parts))),
        }

    def _deliver(self, images: np.ndarray, rows: np.ndarray) -> None:
        """Passes the images of a batch to the listener, without the padding, which begins again with the first row."""
        if self._listener is not None:
            self._listener(to_uint8(images[rows - rows[0] == np.arange(len(rows))]))

    def sample(
        self,
        batch: dict[str, Any],
        numbers: Numbers,
        decoder_numbers: Numbers,
        batch_size: int,
        verbose: int = 0,
    ) -> np.ndarray:
        """Generates N images, or their latents.

        Args:
            batch: Arrays (N, ...): "tokens", "generator" and "decoder" (the noise), and optionally "negative" (tokens
                of negative prompts), "guide_tokens" (those of the guide's encoder), "image" and "edit_mask".
            numbers, decoder_numbers: The options that are not compiled in.
            batch_size: Largest number of images in a batch. The last batch is padded: see `program_batch`.
            verbose: Verbosity, as in Keras: 1 shows a progress bar.

        Returns:
            (N, height, width, channels) in [-1, 1]; for latents, float32 or int32 (N, *generator.space.shape).

        Raises:
            RunError: images, or weights of the pipeline, are not finite.
        """
        count = len(next(iter(batch["tokens"].values())))
        if self.watched:
            self._listener, batch["row"] = current_listener(), np.arange(count, dtype=np.int32)
        for name, values in (("numbers", numbers), ("decoder_numbers", decoder_numbers)):
            batch[name] = {option: repeated(value, count) for option, value in values.items()}
        given = {name: arrays for name, arrays in batch.items() if len(arrays)}
        made = self.program.run(given, count, batch_size, verbose)
        for (name, part), finite in zip(self.parts.items(), made["finite_weights"].T, strict=True):
            if not finite.all():
                raise RunError(
                    f"the weights of {name} {type(part).__name__} contain NaN or infinity: its training "
                    "failed. Train it again, with a lower learning_rate or a clip_norm"
                )
        if not made["finite"].all():
            raise RunError(
                f"{type(self.generator).__name__} and {type(self.decoder).__name__} generated images that are not "
                "finite (NaN or infinity), although the weights are finite: change their options"
            )
        return np.asarray(made["made"]).astype(latent_type(self.generator.space) if self.latents else np.float32)


def resized(generator: Generator, decoder: Decoder, size: Any) -> tuple[Generator, Decoder]:
    """The generator and the decoder for images of another height and width; None: they stay as they are.

    Raises:
        ConfigError: `size` is not a pair of positive whole numbers.
        SpaceError: the generator or the decoder does not support this size.
    """
    if size is None:
        return generator, decoder
    numbers = isinstance(size, Sequence) and all(isinstance(n, int) and not isinstance(n, bool) for n in size)
    if not numbers or len(size) != 2 or min(size) < 1:
        raise ConfigError(f"size must be the height and width of the images in pixels, such as (96, 64), not {size!r}")
    image_space = decoder.image_space
    try:
        decoder = decoder.resized(replace(image_space, shape=(*size, image_space.shape[-1])))
        return generator.resized(decoder.latent_space), decoder
    except SpaceError as error:
        raise SpaceError(f"size {size[0]}x{size[1]} (height x width): {error}") from error


def latent_type(space: Space) -> type[np.generic]:
    """The dtype of latents: int32 for tokens, else float32."""
    return np.int32 if space.kind == "tokens" else np.float32


def _shows_steps(decoder: Decoder, options: dict[str, Any]) -> bool:
    """Whether the steps of the decoder are shown, not those of the generator, which would cost all of them each."""
    one, all_passes = (decoder.limit_passes(options, most) for most in (1, sys.maxsize))
    return decoder.latent_is_embedding or one != all_passes


def _finite(weights: Sequence[Any]) -> Any:
    """Whether all numbers of all weights are finite: a bool scalar."""
    kinds = [weight for weight in weights if keras.backend.is_float_dtype(weight.dtype)]
    found = [ops.all(ops.isfinite(ops.convert_to_tensor(weight))) for weight in kinds]
    return ops.all(ops.stack(found)) if found else ops.convert_to_tensor(True)


def validate_options(part: Any, method: str, given: dict[str, Any] | Any) -> dict[str, Any]:
    """Validates options against the signature of a method, such as `generate` or `decode`.

    Returns:
        The given options, converted to their annotated types. For all others, the method has defaults.
    """
    name, function = type(part).__name__, getattr(type(part), method)
    return check_options(function, given, f"{name}.{method}")


def noise_spec(part: Any, checked: Mapping[str, Any]) -> Mapping[str, NoiseSpec]:
    """The random numbers that a generator or decoder needs. Raises ConfigError if options contradict each other."""
    try:
        return part.noise_spec(**checked)  # type: ignore[no-any-return]
    except ValueError as error:
        raise ConfigError(f"options of {type(part).__name__}: {error}") from error
