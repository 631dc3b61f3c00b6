"""The contract of the second part: noise and a condition -> latent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import keras

from kgen.contracts.capabilities import Capability, option_of, sampling_steps
from kgen.contracts.encoder import Condition
from kgen.errors import PluginError
from kgen.options import MAX_OPTION, Arguments, Configurable, supplied
from kgen.random import NoiseSpec
from kgen.spaces import ConditionSpace, Space

Tensor = Any
OF_GENERATE = frozenset(
    {
        *("prompts", "prompt", "n", "first", "seed", "seeds", "count", "shared_noise", "batch_size", "image", "mask"),
        *("negative_prompt", "decoder", "verbose"),
    }
)
"""Arguments of `Pipeline.generate` and `Pipeline.interpolate`, which take the options of `generate` beside them."""

OF_LIKELIHOOD = frozenset({"images", "captions", "batch_size"})
"""Arguments of `Pipeline.log_likelihood`."""

# A method that subclasses give options of their own has (*args: Any, **options: Any): mypy allows any then.


class Generator(Configurable, keras.layers.Layer):  # type: ignore[misc]
    """A generative model of latents, given a condition.

    A subclass takes `space` and `condition_space` first, then its options, after a ``*``; it stores each under its
    own name, and passes ``**kwargs`` (Keras's ``name`` and ``dtype``) to ``super().__init__``. Every weight is created
    by `compute_losses`'s path or in ``build``; one that should learn more slowly than the others gets an attribute
    `learning_rate_share`, its share of the learning rate. Random numbers in training come from a `kgen.SeedGenerator`.

    Args:
        space: Of the latents to generate.
        condition_space: Of the conditions that `compute_losses` and `generate` receive.

    Attributes:
        accepts: The kinds of space that this generator can model.
        supports_guidance, supports_img2img, supports_inpainting: What `generate` can do. They are read from its
            arguments: it has an option of the type `kgen.Guidance`; it takes a `source`, and an option of the type
            `kgen.Strength` says how much of the source changes; it takes an `edit_mask` of the source, too.
        likelihood: What `log_likelihood` gives: the log-likelihood; what is below it, on average over random numbers;
            or what may be above or below it. None where there is none.

    Raises:
        SpaceError: from ``__init__``, where the model cannot work in `space` (its strides do not divide it, say).
        PluginError: from the definition of a subclass whose `generate` has only a part of what a capability needs.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {
        "__init__": Arguments(("space", "condition_space"), frozenset({"name"})),
        "noise_spec": Arguments(),
        "generate": Arguments(("condition", "null_condition", "noise", "source", "edit_mask"), OF_GENERATE),
        "log_likelihood": Arguments(("x", "condition"), OF_LIKELIHOOD),
    }
    largest_option = MAX_OPTION

    accepts: ClassVar[tuple[str, ...]] = ("continuous",)
    supports_guidance: ClassVar[bool] = False
    supports_img2img: ClassVar[bool] = False
    supports_inpainting: ClassVar[bool] = False
    likelihood: ClassVar[Literal["exact", "lower bound", "estimate"] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        arguments = supplied(cls.generate)
        cls.supports_guidance = option_of(cls.generate, Capability.GUIDANCE) is not None
        cls.supports_img2img = "source" in arguments and cls.generate is not Generator.generate
        cls.supports_inpainting = "edit_mask" in arguments
        owner, strength = f"{cls.__module__}:{cls.__qualname__}", option_of(cls.generate, Capability.STRENGTH)
        if cls.supports_img2img != (strength is not None):
            has, lacks = "a source", "option of the type kgen.Strength, which says how much of it changes"
            has, lacks = (has, lacks) if strength is None else (f"'{strength}' of the type kgen.Strength", "source")
            raise PluginError(f"{owner}: generate takes {has}, but no {lacks}")
        if cls.supports_inpainting and not cls.supports_img2img:
            raise PluginError(f"{owner}: generate takes a region, but no source that the region could be of")

    def __init__(self, space: Space, condition_space: ConditionSpace, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.space = space
        self.condition_space = condition_space

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Losses of every example, on which nothing has been averaged over the batch.

        Args:
            x: (B, *space.shape) float32, or int32 tokens.
            condition: What the encoder made: "sequence" (B, L, D), "mask" (B, L), "pooled" (B, P).
            training: As in Keras.

        Returns:
            Arrays (B,), float32 also under mixed precision, where layers give less. "loss" is minimized; the others
            are reported.
        """
        raise NotImplementedError

    def noise_spec(self, *args: Any, **options: Any) -> Mapping[str, NoiseSpec]:
        """The random numbers that `generate` needs for one image, given the same options."""
        raise NotImplementedError

    def generate(
        self, condition: Condition, null_condition: Condition, noise: dict[str, Tensor], *args: Any, **options: Any
    ) -> Tensor:
        """Generates latents; compiled whole. Subclasses name their options, with types and defaults.

        An option annotated as ``float``, or ``float | None``, comes as a float32 scalar tensor, so that one program
        serves all of its values: do not ask for its value with Python's `if`. A value that is to change the computation
        is declared, ``rescale: Annotated[float, kgen.Static(0.0)] = 0.0``; it comes as a plain number, and
        ``kgen.is_static(rescale, 0.0)`` finds it. The weight 1.0 of a `kgen.Guidance` is declared so. Options of all
        other types come as they are, and each of their values is compiled anew. The same goes for `log_likelihood`, and
        for `decode` of a decoder.

        Args:
            condition: As in `compute_losses`.
            null_condition: The empty text's condition, same shapes: what the model saw where conditions were dropped.
            noise: By name (B, *shape), as `noise_spec` asked for.
            source: (B, *space.shape), the latents of images to change. It is given only to a generator that
                `supports_img2img`, and only where there are such images.
            edit_mask: (B, *space.shape[:2]) bool, True where the latents are generated anew; the others stay exactly as
                they are, and the strength does not matter. It is given only with a `source`, and only to a generator
                that `supports_inpainting`.

        Returns:
            (B, *space.shape); row i depends on row i of the arguments alone.
        """
        raise NotImplementedError

    def num_sampling_steps(self, **given: Any) -> int:
        """How many steps, one after the other, an image takes with options of `generate`.

        Default: the option of the type `kgen.Steps`, where `generate` has one and it is a number, else one.
        """
        return sampling_steps(type(self).generate, given)

    def likelihood_label(self, **given: Any) -> str:
        """What `log_likelihood` gives with options of its own, for tables: "exact", "a bound of 16 draws".

        Default: `likelihood`, or "none".
        """
        return self.likelihood or "none"

    def log_likelihood(self, x: Tensor, condition: Condition, *args: Any, **options: Any) -> Tensor:
        """How likely x is, or a lower bound of it: see `likelihood`. Subclasses may name options, with defaults.

        Args:
            x: As in `compute_losses`. For pixels, numbers 2 v / 255 - 1 of 8-bit images v.

        Returns:
            (B,) nats. For pixels, the logarithm of the probability of the 8-bit image: of the density where numbers
            are dequantized, times the volume of a bin, (2 / 255) a number. Any random numbers are the same each time.
        """
        raise NotImplementedError
