"""The contract of the second part: noise and a condition -> latent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import keras

from kgen.contracts.encoder import Condition
from kgen.options import MAX_OPTION, Arguments, Configurable, options
from kgen.random import NoiseSpec
from kgen.spaces import ConditionSpace, Space

Tensor = Any
OF_GENERATE = frozenset(
    {
        *("prompts", "prompt", "n", "seed", "seeds", "count", "shared_noise", "batch_size", "image", "mask"),
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
        supports_guidance: True where `generate` takes `guidance`, the weight of classifier-free guidance.
        supports_img2img: True where `generate` takes a `source`, the latents of images to start from, and a `strength`.
        supports_inpainting: True where the generator `supports_img2img`, and `generate` also takes an `edit_mask`, the
            only part of a source that changes.
        likelihood: What `log_likelihood` gives: the log-likelihood; what is below it, on average over random numbers;
            or what may be above or below it. None where there is none.

    Raises:
        SpaceError: from ``__init__``, where the model cannot work in `space` (its strides do not divide it, say).
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
        is declared, ``guidance: Annotated[float, kgen.Static(1.0)] = 1.0``; it comes as a plain number, and
        ``kgen.is_static(guidance, 1.0)`` finds it. Options of all other types come as they are, and each of their
        values is compiled anew. The same goes for `log_likelihood`, and for `decode` of a decoder.

        Args:
            condition: As in `compute_losses`.
            null_condition: The empty text's condition, same shapes: what the model saw where conditions were dropped.
            noise: By name (B, *shape), as `noise_spec` asked for.
            source: (B, *space.shape), the latents of images to change. It is given only to a generator that
                `supports_img2img`, and only where there are such images.
            edit_mask: (B, *space.shape[:2]) bool, True where the latents are generated anew; the others stay exactly as
                they are, and `strength` does not matter. It is given only with a `source`, and only to a generator that
                `supports_inpainting`.

        Returns:
            (B, *space.shape); row i depends on row i of the arguments alone.
        """
        raise NotImplementedError

    def num_sampling_steps(self, **given: Any) -> int:
        """How many steps, one after the other, an image takes with options of `generate`.

        Default: the option `steps`, where `generate` has it and it is a number, else one.
        """
        known = options(type(self).generate)
        steps = given.get("steps", known["steps"].default) if "steps" in known else 1
        return steps if isinstance(steps, int) else 1

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
