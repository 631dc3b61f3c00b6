"""The sizes of KerasHub's models of Stable Diffusion 3. The defaults are those of Stable Diffusion 3 Medium."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from kgen import SpaceError
from kgen.pretrained import Section

GROUPS = 32
"""Number of groups of all normalizations of the autoencoder."""

Filters = Annotated[tuple[Annotated[int, Field(gt=0, multiple_of=GROUPS)], ...], Field(min_length=1)]
Blocks = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class MMDiTSizes:
    """The sizes of an MMDiT, the multimodal diffusion transformer (Esser et al. 2024, figure 2).

    Args:
        patch: Height and width of the square of the latent that becomes one token.
        width: Dimension of a token, a multiple of `heads`.
        depth: Number of blocks.
        heads: Number of attention heads.
        positions: Height and width, in tokens, of the learned position embedding. Smaller latents use its middle.
        normalize: Whether queries and keys are normalized by their root mean square, as in Stable Diffusion 3.5.
        dual_attention: Numbers of the blocks, from 0, whose image tokens also attend to themselves alone, as in
            Stable Diffusion 3.5 Medium.
    """

    patch: PositiveInt = 2
    width: PositiveInt = 1536
    depth: PositiveInt = 24
    heads: PositiveInt = 24
    positions: PositiveInt = 192
    normalize: bool = False
    dual_attention: tuple[Annotated[int, Field(ge=0)], ...] = ()

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} is not divisible into {self.heads} heads: change width or heads")
        if any(number >= self.depth for number in self.dual_attention):
            raise ValueError(f"dual_attention names the blocks 0 to {self.depth - 1}, but got {self.dual_attention}")

    @classmethod
    def read(cls, config: Section) -> MMDiTSizes:
        """Reads KerasHub's configuration. Raises ConfigError for wrong values."""
        dual = config.value("mmdit_dual_attention_indices", None) or []
        if not isinstance(dual, list) or not all(type(number) is int and number >= 0 for number in dual):
            config.refuse("mmdit_dual_attention_indices", f"must be a list of numbers of blocks, not {dual!r:.80}")
        try:
            return cls(
                patch=config.whole("mmdit_patch_size"),
                width=config.whole("mmdit_hidden_dim"),
                depth=config.whole("mmdit_num_layers"),
                heads=config.whole("mmdit_num_heads"),
                positions=config.whole("mmdit_position_size"),
                normalize=config.one_of("mmdit_qk_norm", {None: False, "rms_norm": True}, None),
                dual_attention=tuple(dual),
            )
        except ValueError as error:
            config.refuse(None, f"does not describe a model: {error}")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises SpaceError if the latents (height, width, channels) have the wrong size."""
        height, width, _ = shape
        if height % self.patch or width % self.patch:
            raise SpaceError(
                f"an MMDiT with patches of {self.patch} needs latents whose height and width are divisible by it, but "
                f"they are {height}x{width}: change the size of the images"
            )
        if max(height, width) > self.patch * self.positions:
            raise SpaceError(
                f"this MMDiT has {self.positions}x{self.positions} positions, for latents of up to "
                f"{self.patch * self.positions}x{self.patch * self.positions}, but they are {height}x{width}: use "
                "smaller images"
            )


@dataclass(frozen=True, kw_only=True)
class VAESizes:
    """The sizes of the autoencoder, and the scale of its latents.

    Args:
        encoder_filters: Number of channels of the encoder at each size, multiples of 32. Each size has half the height
            and width of the one before.
        encoder_blocks: Number of residual blocks of the encoder at each size.
        decoder_filters, decoder_blocks: Those of the decoder, the smallest size first.
        channels: Number of channels of the latent.
        scale: What the means of the latents are multiplied with, after `shift` is subtracted.
        shift: See `scale`.
    """

    encoder_filters: Filters = (128, 256, 512, 512)
    encoder_blocks: Blocks = (2, 2, 2, 2)
    decoder_filters: Filters = (512, 512, 256, 128)
    decoder_blocks: Blocks = (3, 3, 3, 3)
    channels: PositiveInt = 16
    scale: Annotated[float, Field(gt=0)] = 1.5305
    shift: float = 0.0609

    def __post_init__(self) -> None:
        counts = {len(getattr(self, name)) for name in ("encoder_filters", "encoder_blocks", "decoder_filters")}
        if counts != {len(self.decoder_blocks)}:
            raise ValueError("filters and blocks must be lists of one length, a number for each size")

    @classmethod
    def read(cls, config: Section) -> VAESizes:
        """Reads KerasHub's configuration. Raises ConfigError for wrong values."""
        moments = config.whole("sample_channels", 32)
        if moments % 2:
            config.refuse("sample_channels", "must be even: a mean and a log variance for each channel")
        for key in ("input_channels", "output_channels"):
            config.one_of(key, {3: None}, 3)
        sizes = {
            f"{half}_{name}": config.wholes(f"{half}_num_{name}")
            for half in ("encoder", "decoder")
            for name in ("filters", "blocks")
        }
        for half in ("encoder", "decoder"):
            if any(number % GROUPS for number in sizes[f"{half}_filters"]):
                config.refuse(f"{half}_num_filters", f"must be multiples of {GROUPS}")
        scale, shift = config.number("scale", cls.scale), config.real("shift", cls.shift)
        config.ignore("name", "trainable", "dtype", "sampler_method")
        config.finish()
        try:
            return cls(**sizes, channels=moments // 2, scale=scale, shift=shift)
        except ValueError as error:
            config.refuse(None, f"does not describe a model: {error}")

    @property
    def factor(self) -> int:
        """Height and width of an image over those of its latent."""
        return int(2 ** (len(self.encoder_filters) - 1))


def write_sizes(sizes: MMDiTSizes | VAESizes, file: Path) -> None:
    """Writes sizes, which `kgen.read_json` reads."""
    file.write_text(json.dumps(dataclasses.asdict(sizes), indent=2) + "\n", encoding="utf-8")
