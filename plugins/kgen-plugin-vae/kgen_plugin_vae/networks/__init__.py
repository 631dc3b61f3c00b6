"""The networks, as options: a configuration says ``network: {width: 48}``; two methods make the layers.

`bottom_up` reads the image: ``(x (B, H, W, C), condition) -> features``, a list by stage, (B, h, w, c) each.
`top_down` draws the latents level by level, and with them the image:
``(noise, condition[, features]) -> (parameters (B, H, W, N) float32, latents)``, see `TopDown`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt

from kgen import Space, SpaceError


@dataclass(frozen=True, kw_only=True)
class Network:
    """Stages of residual convolutions; each after the first has half the height and width (He et al. 2016).

    The text as a whole scales and shifts the features of every block (FiLM, Perez et al. 2018); in some stages, pixels
    also attend to its words.

    Args:
        width: Channels of the first stage.
        multipliers: Channels of every stage, times `width`.
        blocks: Residual blocks a stage, on the way up, and on the way down.
        patch: Height and width of the squares of pixels that are one position of the first stage.
        attention: The stages, counted from 0, with attention to the text.
        head_dim: Channels an attention head; must divide the channels of these stages.
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
        """Of the attention to the text, 0 where there is none."""
        return self.channels(stage) // self.head_dim if stage in self.attention else 0

    def grid(self, space: Space, stage: int) -> tuple[int, int]:
        """Height and width at a stage."""
        height, width, _ = space.shape
        return height // self.patch >> stage, width // self.patch >> stage

    def check(self, space: Space) -> None:
        """Raises SpaceError where the network cannot work in `space`."""
        if space.kind != "continuous" or len(space.shape) != 3:
            raise SpaceError(f"a VAE works on continuous latents of shape (height, width, channels), not on {space}")
        height, width, _ = space.shape
        stride = self.patch * 2 ** (self.stages - 1)
        if height % stride or width % stride:
            raise SpaceError(
                f"a VAE of {self.stages} stages needs a height and a width that {stride} divides, but the latents are "
                f"{height}x{width}: change the size of the images to a multiple of {stride}, or use fewer multipliers"
            )
