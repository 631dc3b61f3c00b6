"""The options of the two networks: a configuration has ``network: {width: 48}``.

The encoder `BottomUp` reads the image: ``(x (B, H, W, C), condition) -> features``, a list by stage of (B, h, w, c).
The decoder `TopDown` samples the latents level by level, and computes the image from them:
``(noise, condition[, features]) -> (parameters (B, H, W, N) float32, latents)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt

from kgen import Space, SpaceError


@dataclass(frozen=True, kw_only=True)
class Network:
    """Stages of residual convolutions (He et al. 2016). Each has half the height and width of the stage before.

    The pooled text scales and shifts the features of every block (FiLM, Perez et al. 2018). In some stages, pixels also
    attend to the words.

    Args:
        width: Number of channels of the first stage.
        multipliers: Number of channels of each stage as a multiple of `width`.
        blocks: Number of residual blocks per stage, in the encoder and in the decoder.
        patch: Height and width of the square of pixels that becomes one position of the first stage.
        attention: Stages with attention to the text, counted from 0.
        head_dim: Number of channels per attention head. It must divide the channels of the stages with attention.
    """

    width: Annotated[int, Field(ge=4, multiple_of=2)] = 32
    multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 4, 4)
    blocks: PositiveInt = 1
    patch: PositiveInt = 1
    attention: tuple[Annotated[int, Field(ge=0)], ...] = (2, 3)
    head_dim: PositiveInt = 32

    def __post_init__(self) -> None:
        if beyond := [stage for stage in self.attention if stage >= self.stages]:
            raise ValueError(
                f"attention at stage {beyond[0]}, but the stages of this network are 0 to {self.stages - 1}"
            )
        for stage in self.attention:
            if (channels := self.channels(stage)) % self.head_dim:
                raise ValueError(
                    f"stage {stage} has {channels} channels, which heads of {self.head_dim} do not divide: "
                    "change head_dim, width or multipliers"
                )

    @property
    def stages(self) -> int:
        return len(self.multipliers)

    def channels(self, stage: int) -> int:
        return self.width * self.multipliers[stage]

    def heads(self, stage: int) -> int:
        """Returns the number of heads of attention to the text, 0 for stages without attention."""
        return self.channels(stage) // self.head_dim if stage in self.attention else 0

    def grid(self, space: Space, stage: int) -> tuple[int, int]:
        """Returns the height and width at a stage."""
        height, width, _ = space.shape
        return height // self.patch >> stage, width // self.patch >> stage

    def check(self, space: Space) -> None:
        """Raises SpaceError if the network cannot work in `space`."""
        if space.kind != "continuous" or len(space.shape) != 3:
            raise SpaceError(
                f"a VAE works on continuous latents of shape (height, width, channels), not on {space}: choose another "
                "decoder or generator"
            )
        height, width, _ = space.shape
        stride = self.patch * 2 ** (self.stages - 1)
        if height % stride or width % stride:
            raise SpaceError(
                f"a VAE of {self.stages} stages needs a height and a width divisible by {stride}, but the latents are "
                f"{height}x{width}: change the size of the images to a multiple of {stride}, or use fewer multipliers"
            )
