"""The whole model: encoder -> generator -> decoder, trained by Keras's `fit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from kgen.backend.attributes import freeze_layer
from kgen.backend.devices import create_weights
from kgen.backend.memory import weights_fit
from kgen.backend.programs import Programs
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Condition, Encoder, freeze_trained
from kgen.contracts.generator import Generator
from kgen.contracts.inputs import input_key
from kgen.contracts.joint import encode, replace_where
from kgen.contracts.likelihood import check_likelihood
from kgen.data.batches import batches, check_images, validation_batches
from kgen.errors import ConfigError
from kgen.options import plain, split_options
from kgen.pipeline.copies import SavedInFolders
from kgen.pipeline.guides import MAX_GUIDES, LoadedGuide, open_guide, validate_sampling
from kgen.pipeline.inpainting import check_source, source_inputs
from kgen.pipeline.likelihood import Likelihood
from kgen.pipeline.loss_model import LossModel
from kgen.pipeline.prompts import (
    check_first,
    check_guidance,
    check_memory,
    check_number,
    check_output,
    check_prompts,
    check_seeds,
    inputs_beside,
    warn_of_unread,
)
from kgen.pipeline.sampler import Sampler, latent_type, noise_spec, resized, validate_options
from kgen.pixels import floats, to_uint8
from kgen.previews import current_listener
from kgen.random import SeedGenerator, interpolate, noise_keys, per_example, sample

Tensor = Any
Batch = dict[str, Any]

MAX_SAMPLE_BATCH = 64


class Pipeline(SavedInFolders, LossModel):
    """Trains a generator on captioned images, and generates images from prompts.

    Make a pipeline with `kgen.assemble`, which checks that the parts fit together. A pipeline is an ordinary Keras
    model: `compile` it with an optimizer (the generator defines the losses), `fit` it on batches, `evaluate` it.

    A batch is a dict:
        "image": uint8 (B, H, W, C) in 0..255, or float in [-1, 1]; or instead "latent", the output of `decoder.encode`.
        "tokens": B captions or other inputs from `encoder.tokenize`; or instead "condition", the encoder's outputs.
        "weight": (B,), the weight of each example in the mean; optional, by default 1.

    Args:
        encoder, generator, decoder: The three parts. The generator is trained. The encoder is trained, too, if it is
            trainable and has no separate training stage.
        condition_dropout: Probability, in [0, 1), that training replaces the condition of an example by the
            null condition (that of the empty text), which classifier-free guidance needs (Ho and Salimans 2022).
    """

    def __init__(
        self, encoder: Encoder, generator: Generator, decoder: Decoder, *, condition_dropout: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(condition_dropout, int | float) or not 0.0 <= condition_dropout < 1.0:
            raise ConfigError(f"condition_dropout must be a number in [0, 1), not {condition_dropout!r}")
        self.encoder = encoder
        self.generator = generator
        self.decoder = decoder
        self.condition_dropout = condition_dropout
        self.seed_generator = SeedGenerator()
        freeze_trained(encoder)  # like the decoder, it is trained in a separate stage, before the generator
        self.set_untracked("null_tokens", dict(encoder.null_tokens()))
        self.set_untracked("frozen_null", {})
        self.set_untracked("programs", Programs())
        self.set_untracked("guides", Programs(MAX_GUIDES))
        self.build()

    # ---- training -------------------------------------------------------------------------------------------------

    @weights_fit()
    def build(self, input_shape: Any = None) -> None:
        """Creates every weight, and a tracker for each of the generator's losses."""
        if self.built:  # type: ignore[has-type]
            return
        for part in self.encoder.parts():  # the frozen ones at once: what their build assigns must not be lost
            condition = create_weights(part, part.null_tokens()) if part.trainable else part.null_condition()
            if not part.trainable:
                freeze_layer(part)  # also the layers that its build made
        if not self.encoder.trainable:
            condition = self.encoder.null_condition()
        elif len(self.encoder.parts()) > 1:
            condition = create_weights(self.encoder, self.null_tokens)
        if not self.decoder.built:
            self.decoder.build(None)
        latent = create_weights(self.decoder.encode, ops.zeros((1, *self.decoder.image_space.shape)))
        freeze_layer(self.decoder)  # it is trained in a separate stage, before the generator
        if not self.generator.built:
            self.generator.build_pretrained()
        losses = create_weights(partial(self.generator.compute_losses, training=False), latent, condition)
        self.track(losses, self.generator)
        self.encoder.built = self.generator.built = self.decoder.built = self.built = True

    @property
    def training_variables(self) -> list[Any]:
        """All variables except those of the decoder, and of encoders whose weights come from elsewhere."""
        encoders = [part for part in self.encoder.parts() if part.weights_are_external]
        elsewhere: list[keras.layers.Layer] = [self.decoder, *encoders]
        foreign = {id(variable) for part in elsewhere for variable in part.variables}
        return [variable for variable in self.variables if id(variable) not in foreign]

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the training function as in Keras. A frozen encoder encodes the null input here, once."""
        if force or self.train_function is None:
            fixed = self.condition_dropout and not self.encoder.trainable
            condition = self.encoder.null_condition() if fixed else {}
            self.set_untracked("frozen_null", {name: ops.convert_to_numpy(value) for name, value in condition.items()})
        return super().make_train_function(force)

    def call(self, batch: Batch, training: bool = False) -> dict[str, Tensor]:
        """Computes the losses of every example: arrays (B,)."""
        condition = self.condition(batch, training)
        if training and self.condition_dropout:
            condition = self._drop(condition)
        return self.losses_of(self.generator, self.latents(batch), condition, training=training)

    def latents(self, batch: Batch) -> Tensor:
        """The latents of a batch, which are read from it, or computed by the decoder."""
        return batch["latent"] if "latent" in batch else ops.stop_gradient(self.decoder.encode(floats(batch["image"])))

    def condition(self, batch: Batch, training: bool = False) -> Condition:
        """The conditions of a batch, which are read from it, or computed by the encoder."""
        if "condition" in batch:
            return batch["condition"]  # type: ignore[no-any-return]
        return encode(self.encoder, batch["tokens"], training)

    def null_condition(self) -> Condition:
        """The null condition (that of the empty text), with a batch axis of 1."""
        return self.frozen_null or self.encoder.null_condition()

    def _drop(self, condition: Condition) -> Condition:
        count = ops.shape(condition["mask"])[0]
        keep = per_example(keras.random.uniform, (count,), self.seed_generator) >= self.condition_dropout  # (B,)
        return replace_where(keep, condition, self.null_condition())

    def inputs(self, images: np.ndarray | Sequence[np.ndarray], captions: Sequence[Any] | None = None) -> Batch:
        """Makes a batch for `fit` and `evaluate`.

        Args:
            images: uint8 (N, H, W, C) in 0..255, or float in [-1, 1].
            captions: N texts. If the encoder reads another field, N values of it; if it reads several, N mappings.
                The field "image" is by default the image itself. None: the encoder only reads images.

        Raises:
            DataError: the images have another size or type, or are floats outside of [-1, 1] or not finite; or the
                numbers of images and captions differ.
            ConfigError: the encoder cannot read a caption.

        Warns:
            ImageRangeWarning: the images are floats that seem to be in [0, 1].
        """
        images = check_images(images, self.decoder.image_space)
        return {"image": images, "tokens": self.encoder.tokenize(inputs_beside(self.encoder, images, captions))}

    def fit(self, x: Any = None, y: Any = None, *args: Any, validation_data: Any = None, **kwargs: Any) -> Any:
        """Trains as in Keras.

        `x` can be a batch, which is divided into smaller batches; an iterator or `tf.data.Dataset` of batches; or
        images, with their captions as `y`. See `kgen.data.batches.batches` and `inputs`.
        """
        validation_data = validation_batches(validation_data, self.inputs)
        return super().fit(batches(x, y, self.inputs), None, *args, validation_data=validation_data, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as in Keras, with the arguments of `fit`."""
        return super().evaluate(batches(x, y, self.inputs), None, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Computes the losses of every example, by name. To generate images, use `generate`."""
        if isinstance(x, str) or (isinstance(x, Sequence) and all(isinstance(text, str) for text in x)):
            raise ConfigError("predict returns losses of a batch; to generate images, call generate(prompts)")
        return super().predict(batches(x, None, self.inputs), *args, **kwargs)

    # ---- sampling -------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Any,
        *,
        n: int = 1,
        first: int | Sequence[int] = 0,
        seed: int | Sequence[int] = 0,
        shared_noise: bool = False,
        batch_size: int = MAX_SAMPLE_BATCH,
        image: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        negative_prompt: Any = None,
        decoder: Mapping[str, Any] | None = None,
        output: Literal["images", "latents"] = "images",
        size: Sequence[int] | None = None,
        verbose: int = 0,
        **options: Any,
    ) -> np.ndarray:
        """Generates images. An image depends only on its prompt, its seed and its number among `n`, not on its batch.

        Args:
            prompts: One text, or a list of several. If the encoder reads another field, a prompt is a value of it: a
                label, or an image (uint8, of any size). If it reads several, a prompt is a mapping, which may leave
                fields out. If a prompt occurs several times with one seed, the numbering of its images continues, so
                that all of them differ.
            n: Images per prompt.
            first: Number of the first image per prompt: ``n=4, first=4`` gives the last four images of ``n=8``. Or one
                number per prompt; the numbering then does not continue for a repeated prompt.
            seed: The seed of the noise, from 0 to 2^31 - 1; or one seed per prompt.
            shared_noise: Whether the noise depends only on seed and number, so that all prompts share it. Differences
                between their images are then the effect of the prompt. A prompt that is given twice gives equal images.
            batch_size: Largest number of images in a batch, which is rounded down to a power of two.
            image: uint8 (height, width, channels), the image to start from. The generator must have
                `supports_img2img`; its option of the type `kgen.Strength` determines how much changes.
            mask: uint8 (height, width), white for the part of `image` that changes; the rest stays. The generator must
                have `supports_inpainting`. A cell of the latent changes if any of its pixels is white.
            negative_prompt: The prompt from which guidance leads away, in place of the empty text.
            decoder: Options of the decoder's `decode`.
            output: "images"; or "latents", the output of the generator, without decoding it.
            size: Height and width of the images, in pixels; None: those of the training, or of its square buckets.
                Generator and decoder must support it (`Generator.check_space`).
            verbose: 1 shows Keras's progress bar.
            **options: Options of the generator's `generate`, such as `steps` or `guidance`. One of the type
                `kgen.Guide` is the path of a run, a mapping with "from" and "step", or a pipeline.

        Returns:
            uint8 (len(prompts) * n, *size, channels), with the `n` images of a prompt in a row; latents are
            float32 or int32 (len(prompts) * n, *generator.space.shape), or of the shape that belongs to `size`.

        Raises:
            ConfigError: an option is unknown, or its value is not allowed; the generator does not support an image or a
                mask; or the images do not fit into memory.
            SpaceError: the generator or the decoder does not support `size`.
            RunError: the images, or weights, are not finite.

        Warns:
            GuidanceWarning: there is `guidance`, but the pipeline was trained without `condition_dropout`.
            UnreadTextWarning: the encoder does not read a prompt completely.
        """
        prompts = check_prompts(self.encoder, prompts)
        seeds = check_seeds(seed, len(prompts))
        count = check_number("n", n) * len(prompts)
        batch_size = check_number("batch_size", batch_size)
        latents = check_output(output, decoder)
        generator, own = parts = resized(self.generator, self.decoder, size)
        if not prompts:
            space = generator.space if latents else own.image_space
            return np.zeros((0, *space.shape), latent_type(space) if latents else np.uint8)
        options, guide = self.checked_options(options)
        if guide is not None:
            guide.check_space(generator.space)
        check_source(generator, own.image_space, image, mask, options)
        check_guidance(generator, self.encoder, self.condition_dropout, options, negative_prompt)
        warn_of_unread(self.encoder, prompts)
        decoder_options = validate_options(own, "decode", decoder or {})
        specs, decoder_specs = noise_spec(generator, options), noise_spec(own, decoder_options)
        check_memory(count, own.image_space, [*specs.values(), *decoder_specs.values()])
        repeated = [prompt for prompt in prompts for _ in range(n)]
        names = [input_key(prompt) for prompt in prompts]
        keys = noise_keys(names, seeds, n, shared_noise, check_first(first, len(prompts)))
        batch: Batch = {
            "tokens": self.encoder.tokenize(repeated),
            "generator": sample(specs, keys),
            "decoder": {} if latents else sample(decoder_specs, keys),
        }
        if negative_prompt is not None:
            batch["negative"] = self.encoder.tokenize(check_prompts(self.encoder, [negative_prompt]) * count)
        batch |= source_inputs(image, mask, own.image_space, generator.space, count)
        batch |= {} if guide is None else {"guide_tokens": guide.tokenize(repeated)}
        return self._sample(batch, options, decoder_options, batch_size, guide, verbose, latents, parts)

    def interpolate(
        self,
        prompt: Any,
        *,
        count: int = 8,
        seeds: tuple[int, int] = (0, 1),
        shared_noise: bool = False,
        decoder: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Generates images of one prompt from noise that is interpolated between two seeds.

        Args:
            prompt: The text.
            count: Number of images, at least 2. The first and the last are those of `generate` with the two seeds.
                Only normal noise is interpolated; other noise stays that of the first seed.
            seeds: The two seeds.
            shared_noise, decoder, **options: As in `generate`.

        Returns:
            uint8 (count, height, width, channels).

        Raises:
            ConfigError: the generator has no normal noise.
        """
        (prompt,) = check_prompts(self.encoder, [prompt])
        key = input_key(prompt)
        first, second = ([noise_keys([key], [s], 1, shared_noise)[0]] for s in check_seeds(seeds, 2))
        check_number("count", count, least=2)
        options, guide = self.checked_options(options)
        check_guidance(self.generator, self.encoder, self.condition_dropout, options)
        warn_of_unread(self.encoder, [prompt])
        decoder_options = validate_options(self.decoder, "decode", decoder or {})
        specs, decoder_specs = noise_spec(self.generator, options), noise_spec(self.decoder, decoder_options)
        if not any(spec.kind == "normal" for spec in specs.values()):
            raise ConfigError(f"{type(self.generator).__name__} has no normal noise to interpolate")
        at = np.linspace(0.0, 1.0, count)
        batch = {
            "tokens": self.encoder.tokenize([prompt] * count),
            "generator": interpolate(specs, sample(specs, first), sample(specs, second), at),
            "decoder": interpolate(decoder_specs, sample(decoder_specs, first), sample(decoder_specs, second), at),
        }
        batch |= {} if guide is None else {"guide_tokens": guide.tokenize([prompt] * count)}
        return self._sample(batch, options, decoder_options, MAX_SAMPLE_BATCH, guide)

    def checked_options(
        self, given: Mapping[str, Any], staged_decoder: bool = False
    ) -> tuple[dict[str, Any], LoadedGuide | None]:
        """Validates options of the generator's `generate`, and opens the guide among them: see `open_guide`."""
        options = validate_sampling(self.generator, given, Pipeline)
        return options, open_guide(self, options, self.guides, Pipeline, staged_decoder)

    def _sample(
        self,
        batch: Batch,
        options: dict[str, Any],
        decoder_options: dict[str, Any],
        batch_size: int,
        guide: LoadedGuide | None = None,
        verbose: int = 0,
        latents: bool = False,
        parts: tuple[Generator, Decoder] | None = None,
    ) -> np.ndarray:
        """Runs the program of these options, which is compiled on its first use.

        `parts` are the generator and decoder for another size; None: those of the pipeline.
        """
        generator, decoder = parts or (self.generator, self.decoder)
        static, numbers = split_options(type(self.generator).generate, options)
        decoder_static, decoder_numbers = split_options(type(self.decoder).decode, decoder_options)
        key = None if guide is None else guide.key
        statics = {k: v for k, v in static.items() if guide is None or k != guide.option}, decoder_static
        loops, watched = generator.num_sampling_steps(**options) > 1, current_listener() is not None
        sampler: Sampler = self.programs.get(
            ("generate", repr(plain(list(statics))), key, loops, latents, decoder.image_space, watched),
            lambda: Sampler(
                self.encoder, generator, decoder, self.null_tokens, *statics, loops, guide, latents, watched
            ),
        )
        made = sampler.sample(batch, numbers, decoder_numbers, batch_size, verbose)
        return made if latents else to_uint8(made)

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def log_likelihood(
        self,
        images: np.ndarray,
        captions: Sequence[Any] | None = None,
        *,
        batch_size: int = MAX_SAMPLE_BATCH,
        **options: Any,
    ) -> np.ndarray:
        """Computes the log-likelihood of images, given their captions.

        Args:
            images, captions: N of each, as for `inputs`.
            batch_size: Largest number of images in a batch.
            **options: Options of the generator's `log_likelihood`.

        Returns:
            (N,) nats: exact, a lower bound or an estimate, as in `generator.likelihood`. `kgen.bits_per_dimension`
            converts them.

        Raises:
            ConfigError: the generator has no likelihood, or the decoder is not lossless.
        """
        check_likelihood(type(self.generator), type(self.decoder))
        options = validate_options(self.generator, "log_likelihood", options)
        batch = self.inputs(images, captions)
        batch["image"] = ops.convert_to_numpy(floats(ops.convert_to_tensor(batch["image"])))
        static, numbers = split_options(type(self.generator).log_likelihood, options)
        key, parts = ("log_likelihood", repr(plain(static))), (self.encoder, self.generator, self.decoder)
        program: Likelihood = self.programs.get(key, lambda: Likelihood(*parts, static))
        return program.measure(batch, numbers, check_number("batch_size", batch_size))
