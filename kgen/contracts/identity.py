"""The built-in decoder of generators of pixels: the latent is the image itself."""

from __future__ import annotations

from typing import Any

from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Condition
from kgen.spaces import Space


class Identity(Decoder):
    """A decoder for generators of pixels, which returns images and latents unchanged."""

    lossless = True

    @property
    def latent_space(self) -> Space:
        return self.image_space

    def check_space(self, image_space: Space) -> None:
        """Supports every size."""

    def encode(self, images: Any) -> Any:
        return images

    def decode(self, latent: Any, condition: Condition, noise: dict[str, Any]) -> Any:
        return latent
