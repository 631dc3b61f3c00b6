"""The contract of the generator, which turns noise and a condition into a latent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import keras
import numpy as np

from kgen.backend.attributes import shared_copy
from kgen.contracts.capabilities import Capability, option_of, sampling_steps
from kgen.contracts.encoder import Condition
from kgen.errors import PluginError, SpaceError
from kgen.options import MAX_OPTION, Arguments, Configurable, supplied
from kgen.random import NoiseSpec
from kgen.spaces import ConditionSpace, Space

Tensor = Any
OF_GENERATE = frozenset(
    {
        *("prompts", "prompt", "n", "first", "seed", "seeds", "count", "shared_noise", "batch_size", "image", "mask"),
        *("negative_prompt", "decoder", "output", "verbose", "size"),
    }
)
"""Arguments of `Pipeline.generate` and `Pipeline.interpolate`, beside which they take the options of `generate`."""

OF_LIKELIHOOD = frozenset({"images", "captions", "batch_size"})
"""Arguments of `Pipeline.log_likelihood`."""

# A method for which subclasses declare options takes (*args: Any, **options: Any), which mypy lets them override.


class Generator(Configurable, keras.layers.Layer):  # type: ignore[misc]
    """A generative model of latents, given a condition.

    A subclass takes `space` and `condition_space` first, then its options, after a ``*``. It stores each option under
    its own name, and passes ``**kwargs`` (Keras's ``name`` and ``dtype``) to ``super().__init__``. `compute_losses`
    creates every weight that `build_pretrained` does not create. A weight that should learn more slowly than the others
    gets an attribute `learning_rate_share`, its share of the learning rate. Random numbers in training come from a
    `kgen.SeedGenerator`, those of a loss through `kgen.random.per_example`. A layer that assigns to its weights in
    training does so only if ``self.trainable`` is True, because frozen weights must stay as they are.

    Args:
        space: The space of the latents to generate.
        condition_space: The space of the conditions that `compute_losses` and `generate` receive.

    Attributes:
        accepts: The kinds of space that this generator can model.
        supports_guidance: True if `generate` has an option of the type `kgen.Guidance`.
        supports_img2img: True if `generate` takes a `source`, the latents of images to start from, and has an option of
            the type `kgen.Strength`.
        supports_guide: True if `generate` has an option of the type `kgen.Guide`, another model that guides.
        supports_inpainting: True if `generate` also takes an `edit_mask`, the only part of the source that changes.
        likelihood: What `log_likelihood` returns: "exact", the log-likelihood; "lower bound", a number whose average
            over random numbers is below it; "estimate", a number that may be above or below it. None: there is none.

    Raises:
        SpaceError: in ``__init__``, if the model does not support `space`, for example because its strides do not
            divide the shape.
        PluginError: in the definition of a subclass whose `generate` lacks an argument that a capability needs.
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
    supports_guide: ClassVar[bool] = False
    supports_img2img: ClassVar[bool] = False
    supports_inpainting: ClassVar[bool] = False
    likelihood: ClassVar[Literal["exact", "lower bound", "estimate"] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        arguments = supplied(cls.generate)
        cls.supports_guidance = option_of(cls.generate, Capability.GUIDANCE) is not None
        cls.supports_guide = option_of(cls.generate, Capability.GUIDE) is not None
        cls.supports_img2img = "source" in arguments and cls.generate is not Generator.generate
        cls.supports_inpainting = "edit_mask" in arguments
        owner, strength = f"{cls.__module__}:{cls.__qualname__}", option_of(cls.generate, Capability.STRENGTH)
        if cls.supports_img2img != (strength is not None):
            has, lacks = "a source", "option of the type kgen.Strength, which says how much of it changes"
            has, lacks = (has, lacks) if strength is None else (f"'{strength}' of the type kgen.Strength", "source")
            raise PluginError(f"{owner}: generate takes {has}, but no {lacks}")
        if cls.supports_inpainting and not cls.supports_img2img:
            raise PluginError(f"{owner}: generate takes an edit_mask, but no source that the mask could belong to")

    def __init__(self, space: Space, condition_space: ConditionSpace, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.space = space
        self.condition_space = condition_space

    def check_space(self, space: Space) -> None:
        """Raises SpaceError unless this generator, with the same weights, also supports latents of another size.

        Override this in a generator that supports other sizes. `compute_losses` then gets latents of any supported
        size, with static shapes, and `resized` returns a generator whose `space` is the given one. Therefore,
        ``__init__`` and ``build`` must not store anything that depends on the height or width. Default: the generator
        supports only the size of its `space`.

        Args:
            space: A space that differs from `self.space` only in height and width.

        Raises:
            SpaceError: the generator does not support this size.
        """
        raise SpaceError(
            f"{type(self).__name__} models latents of one shape, {self.space}, and not {space}: generate images of the "
            "size of its training, or train another generator"
        )

    def resized(self, space: Space) -> Self:
        """Returns this generator for latents of another height and width, with the same layers and weights.

        Raises:
            SpaceError: the generator does not support this size (`check_space`).
        """
        if space == self.space:
            return self
        self.check_space(space)
        made: Self = shared_copy(self, space=space)
        return made

    def build_pretrained(self) -> None:
        """Creates the weights that are read from files which the options name, and assigns them. Default: nothing.

        A pipeline calls this once, before it calls `compute_losses`, which creates all other weights. After
        `load_assets`, the files are not read, because the weights are loaded, too. A run copies the assets and weights,
        and does not need the files afterwards. ``__init__`` must not read the files.

        Raises:
            SpaceError: the weights do not fit the latents, or the conditions.
            ConfigError: the files cannot be used. The message says what to do.
        """

    def initialize(self, batches: Iterable[tuple[np.ndarray, Condition]]) -> None:
        """Initializes weights from the latents, before the first training step. Default: does nothing.

        An example is the principal components of the latents. Every weight exists already. What this measures is stored
        in non-trainable weights, whose first values must also be usable: a run tries its parts on two images before.

        Args:
            batches: Batches of all training latents (B, *space.shape), float32 or int32, each with the conditions of
                its examples, as arrays. They can be iterated repeatedly.
        """

    def save_assets(self, path: str | Path) -> None:
        """Writes what was read from files, except weights, to the folder `path`. Default: nothing."""

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote. Called before any weight exists. Default: nothing."""

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Computes the losses of every example, without an average over the batch.

        The docstring of a subclass begins with what its loss is: "Returns the squared error of ...". The report of a
        run, `kgen plugins show` and the reference show its first paragraph. The validation loss is the same number.

        Args:
            x: The latents, (B, *space.shape) float32, or int32 tokens. They may have another size if `check_space`
                supports it.
            condition: The encoder's output: "sequence" (B, L, D), "mask" (B, L), "pooled" (B, P).
            training: Whether the call is part of the training, as in Keras.

        Returns:
            Arrays (B,), in float32 also under mixed precision, where layers return less. "loss" is minimized; the
            others are reported.
        """
        raise NotImplementedError

    def noise_spec(self, *args: Any, **options: Any) -> Mapping[str, NoiseSpec]:
        """The random numbers that `generate` needs per image, given the same options."""
        raise NotImplementedError

    def generate(
        self, condition: Condition, null_condition: Condition, noise: dict[str, Tensor], *args: Any, **options: Any
    ) -> Tensor:
        """Generates latents. kgen compiles the whole method. Subclasses declare their options, with types and defaults.

        An option annotated as ``float``, or ``float | None``, is passed as a float32 scalar tensor, and a
        ``tuple[float, float]`` as a float32 tensor of shape (2,), so that one program works for all of its values: do
        not branch on it with Python's `if`. A value that changes the computation is
        declared, as in ``rescale: Annotated[float, kgen.Static(0.0)] = 0.0``; it is then passed as a plain number, and
        ``kgen.is_static(rescale, 0.0)`` recognizes it. The weight 1.0 of a `kgen.Guidance` is declared in this way.
        Options of all other types are passed as they are, and each new value compiles a new program. The same holds for
        `log_likelihood`, and for `decode` of a decoder.

        An option of the type `kgen.Guide` is passed as a `GuideModel`, or as None.

        Args:
            condition: The encoder's output, as in `compute_losses`.
            null_condition: The condition of the empty text, of the same shapes: training sees it in place of dropped
                conditions.
            noise: Arrays (B, *shape) by name, as `noise_spec` declares them.
            source: (B, *space.shape), the latents of images to start from. It is passed only to a generator that
                `supports_img2img`, and only if there are such images.
            edit_mask: (B, *space.shape[:2]) bool, True where latents are generated again. All others stay exactly as
                they are, and the strength has no effect. It is passed only with a `source`, and only to a generator
                that `supports_inpainting`.

        Returns:
            (B, *space.shape). Row i depends only on row i of the arguments.
        """
        raise NotImplementedError

    def check_guide(self, guide: Generator) -> None:
        """Checks that another generator can guide this one: see `kgen.Guide`. Both model latents of the same space.

        Default: it must be of the same class.

        Raises:
            ValueError: it cannot. The message says why, and begins with "it".
        """
        if not isinstance(guide, type(self)):
            raise ValueError(f"it is a {type(guide).__name__}, not a {type(self).__name__}")

    def num_sampling_steps(self, **given: Any) -> int:
        """Number of consecutive sampling steps that an image takes, given options of `generate`.

        Default: the option of the type `kgen.Steps`, if `generate` has one and it is a number, else 1.
        """
        return sampling_steps(type(self).generate, given)

    def likelihood_label(self, **given: Any) -> str:
        """A label for tables that says what `log_likelihood` returns, given its options: "exact", for example.

        Default: `likelihood`, or "none".
        """
        return self.likelihood or "none"

    def log_likelihood(self, x: Tensor, condition: Condition, *args: Any, **options: Any) -> Tensor:
        """The log-likelihood of x, a bound or an estimate: see `likelihood`. Subclasses may declare options.

        Args:
            x: The latents, as in `compute_losses`. For pixels, the numbers 2 v / 255 - 1 of 8-bit images v.
            condition: The encoder's output, as in `compute_losses`.

        Returns:
            (B,) nats. For pixels, the logarithm of the probability of the 8-bit image. With dequantization, this is the
            density times the volume of a bin, which is 2 / 255 per number. Repeated calls use the same random numbers.
        """
        raise NotImplementedError


def initializes(generator: type[Generator]) -> bool:
    """Whether a generator measures the training latents before its first training step."""
    return generator.initialize is not Generator.initialize
