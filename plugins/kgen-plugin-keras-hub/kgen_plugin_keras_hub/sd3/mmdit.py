"""KerasHub's MMDiT, as a network of `diffusion/diffusion`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import keras
from keras import ops
from pydantic import Field

from kgen import ConditionSpace, Space, SpaceError, read_json
from kgen_plugin_keras_hub.sd3.architecture import MMDiTSizes, write_sizes
from kgen_plugin_keras_hub.sd3.library import hub_class
from kgen_plugin_keras_hub.sd3.preset import Published, load_part, open_preset

Tensor = Any
Shape = tuple[int | None, ...]

FILE = "mmdit.json"
"""The file of the sizes, in a saved pipeline."""


@dataclass(frozen=True)
class MMDiT:
    """The multimodal diffusion transformer of Stable Diffusion 3 and 3.5, a model of KerasHub (Esser et al. 2024).

    It attends to all positions of the condition's "sequence", the padding included, as Stable Diffusion was trained; it
    does not read "mask". It sees 1000 times the noise level sigma, so its generator needs ``schedule: {kind:
    shifted-flow}`` and ``prediction: velocity``.

    Args:
        preset: Trained weights: a folder in KerasHub's format, "hf://USER/NAME", or a preset of KerasHub, such as
            "stable_diffusion_3_medium"; None: random weights.
        sizes: The sizes of a network with random weights; None: those of the preset, or of Stable Diffusion 3 Medium.

    Raises:
        ValueError: both `preset` and `sizes` are given.
    """

    preset: Annotated[str, Field(min_length=1)] | None = None
    sizes: MMDiTSizes | None = None

    any_shape: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.preset is not None and self.sizes is not None:
            raise ValueError("the preset has its own sizes: leave 'sizes' out")

    def check(self, space: Space) -> None:
        """Raises SpaceError if the latents are no grid, or if `sizes` are known and do not fit it."""
        if space.kind != "continuous" or len(space.shape) != 3:
            raise SpaceError(
                f"an MMDiT works on continuous latents of shape (height, width, channels), not on {space}: choose "
                "another decoder or network"
            )
        if self.preset is None:
            (self.sizes or MMDiTSizes()).check(space.shape)

    def build(self, space: Space, condition_space: ConditionSpace, out_channels: int) -> keras.layers.Layer:
        """Makes the layer in the current dtype policy. Its `build` creates every weight."""
        self.check(space)
        return MMDiTLayer(self, name="mmdit")


class MMDiTLayer(keras.layers.Layer):
    """The layer of `MMDiT`. It reads the preset in `build`, unless `load_assets` was called.

    Args:
        options: The options.

    Attributes:
        published: The configuration of the preset; None: it has not been read, or there is none.
    """

    def __init__(self, options: MMDiT, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.options = options
        self.published: Published | None = None
        self._folder: Path | None = None
        self._sizes = None if options.preset is not None else options.sizes or MMDiTSizes()

    def read(self) -> None:
        """Reads the configuration of the preset, if the sizes are not known yet. Raises ConfigError if it is wrong."""
        if self._sizes is None:
            assert self.options.preset is not None
            self._folder = open_preset(self.options.preset)
            self.published = Published.read(self._folder)
            self._sizes = self.published.mmdit

    def build(self, x_shape: Shape, condition_shape: Mapping[str, Shape]) -> None:
        """Creates every weight, and assigns those of the preset.

        Raises:
            ConfigError: the preset is damaged, or is of another model.
            SpaceError: the model does not fit the latents or the conditions.
        """
        self.read()
        assert self._sizes is not None
        sizes, latent = self._sizes, tuple(int(side or 0) for side in x_shape[1:])
        sizes.check(latent)
        context, pooled = (int(condition_shape[name][-1] or 0) for name in ("sequence", "pooled"))
        if self.published is not None:
            _check(self.published, latent[-1], context, pooled)
        network = hub_class("MMDiT")(
            sizes.patch,
            sizes.width,
            sizes.depth,
            sizes.heads,
            sizes.positions,
            latent_shape=latent,
            context_shape=(None, context),
            pooled_projection_shape=(pooled,),
            qk_norm="rms_norm" if sizes.normalize else None,
            dual_attention_indices=sizes.dual_attention,
            data_format="channels_last",
            dtype=self.dtype_policy,
        )
        if self._folder is not None:
            given = {name: keras.Input(batch_shape=x.shape, dtype=x.dtype) for name, x in network.input.items()}
            load_part(keras.Model(given, network(given)), self._folder)
        # KerasHub casts the time, up to 1000, to bfloat16, which has 8 bits
        network.autocast = network.timestep_embedding.autocast = False
        self.network = network

    def call(self, x: Tensor, noise_level: Tensor, condition: Mapping[str, Tensor], training: bool = False) -> Tensor:
        """(B, h, w, C), (B,), condition -> (B, h, w, C) float32."""
        given = {
            "latent": x,
            "context": condition["sequence"],
            "pooled_projection": condition["pooled"],
            "timestep": noise_level[:, None],
        }
        return ops.cast(self.network(given, training=training), "float32")

    def check_space(self, space: Space) -> None:
        """Raises SpaceError if the patches or positions do not fit latents of this size."""
        self.read()
        assert self._sizes is not None
        self._sizes.check(space.shape)

    def save_assets(self, path: str | Path) -> None:
        """Writes the sizes."""
        assert self._sizes is not None
        write_sizes(self._sizes, Path(path) / FILE)

    def load_assets(self, path: str | Path) -> None:
        """Reads what `save_assets` wrote. Raises RunError if it is damaged."""
        self._sizes = read_json(Path(path) / FILE, MMDiTSizes)


def _check(published: Published, channels: int, context: int, pooled: int) -> None:
    """Raises SpaceError if the latents, or the conditions, have other dimensions than those of the preset."""
    for what, wanted, found, part in (
        ("latents with {} channels", published.vae.channels, channels, "decoder 'keras-hub/sd3-vae'"),
        ("conditions of dimension {}", published.context_dim, context, "encoder 'keras-hub/sd3-text'"),
        ("pooled conditions of dimension {}", published.pooled_dim, pooled, "encoder 'keras-hub/sd3-text'"),
    ):
        if wanted != found:
            raise SpaceError(
                f"this MMDiT reads {what.format(wanted)}, not {found}: choose the {part} of the same preset"
            )
