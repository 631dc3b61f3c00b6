"""Several decoders in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from keras import ops
from pydantic import Field

from kgen import ConditionSpace, ConfigError, Decoder, Encoder, NoiseSpec, Space, SpaceError, make_decoder
from kgen.options import check_options

Tensor = Any
Condition = dict[str, Tensor]
Choice = dict[str, Any]


class Cascade(Decoder):
    """Several decoders in a row: each decodes the output of the one before (Ho et al. 2022).

    All are trained in one fit. Each learns to decode training images that the later decoders have encoded.

    Args:
        decoders: Name and options of each decoder, from the smallest image to the largest. The latents of a decoder are
            the images of the one before.

    Raises:
        SpaceError: The latents of a decoder other than the first are not images; or a decoder raises it.
    """

    def __init__(
        self,
        image_space: Space,
        condition_space: ConditionSpace,
        encoder: Encoder | None = None,
        *,
        decoders: Annotated[tuple[Choice, ...], Field(min_length=1)],
        **kwargs: Any,
    ) -> None:
        super().__init__(image_space, **kwargs)
        self.condition_space = condition_space
        parts: list[Decoder] = []
        for choice in reversed(decoders):
            if image_space.kind != "continuous" or not image_space.bounded:
                raise SpaceError(
                    f"in a cascade, only the first decoder may have latents that are not images, but "
                    f"{type(parts[0]).__name__} has {image_space}"
                )
            parts.insert(0, make_decoder(choice, image_space, condition_space, encoder))
            image_space = parts[0].latent_space
        self.parts = parts
        self.latent_is_image = parts[0].latent_is_image
        self.latent_is_embedding = parts[0].latent_is_embedding
        self.decoders = tuple(
            {"name": choice["name"], **part.config} for choice, part in zip(decoders, parts, strict=True)
        )

    @property
    def encoder(self) -> Encoder | None:
        """The encoder whose weights a decoder shares; None if none does."""
        return next((part.encoder for part in self.parts if hasattr(part, "encoder")), None)

    @property
    def latent_space(self) -> Space:
        return self.parts[0].latent_space

    def build(self, input_shape: None = None) -> None:
        for part in self.parts:
            if not part.built:
                part.build(None)
                part.built = True

    @property
    def inference_weights(self) -> list[Any]:
        return [weight for part in self.parts for weight in part.inference_weights]

    # ---- both directions ------------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> Tensor:
        return self._encode(images, down_to=0)

    def _encode(self, images: Tensor, down_to: int) -> Tensor:
        """Returns the latents of part number `down_to`."""
        for part in reversed(self.parts[down_to:]):
            images = part.encode(images)
        return images

    def noise_spec(self, **options: Any) -> dict[str, NoiseSpec]:
        return {
            f"part{i}_{name}": spec
            for i, (part, given) in enumerate(zip(self.parts, self._options(**options), strict=True))
            for name, spec in part.noise_spec(**given).items()
        }

    def decode(
        self,
        latent: Tensor,
        condition: Condition,
        noise: dict[str, Tensor],
        *,
        parts: tuple[dict[str, Any], ...] = (),
    ) -> Tensor:
        """Decodes with one decoder after the other, and clips each output to [-1, 1].

        Args:
            parts: Options of `decode` for each decoder, in order. Options that are left out have their defaults.
        """
        for i, (part, given) in enumerate(zip(self.parts, self._options(parts), strict=True)):
            prefix = f"part{i}_"
            own = {name.removeprefix(prefix): value for name, value in noise.items() if name.startswith(prefix)}
            latent = part.decode(latent, condition, own, **given)
            latent = ops.clip(ops.cast(latent, "float32"), -1.0, 1.0)
        return latent

    def _options(self, parts: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        """Returns the validated options of each part."""
        if len(parts) > len(self.parts):
            raise ConfigError(f"parts: options of {len(parts)} decoders, but the cascade has {len(self.parts)}")
        filled = [*parts, *[{}] * (len(self.parts) - len(parts))]
        return [
            check_options(type(part).decode, given, f"{type(part).__name__}.decode")
            for part, given in zip(self.parts, filled, strict=True)
        ]

    def without_text(self, options: Mapping[str, Any]) -> dict[str, Any]:
        given = zip(self.parts, self._options(options.get("parts", ())), strict=True)
        return {**options, "parts": tuple(part.without_text(own) for part, own in given)}

    def limit_passes(self, options: Mapping[str, Any], most: int) -> dict[str, Any]:
        given = zip(self.parts, self._options(options.get("parts", ())), strict=True)
        return {**options, "parts": tuple(part.limit_passes(own, most) for part, own in given)}

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, images: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the sum of the parts' losses, and each of them."""
        losses: dict[str, Tensor] = {}
        for i, part in enumerate(self.parts):
            if _trains(part):
                wanted = ops.stop_gradient(self._encode(images, down_to=i + 1))
                found = part.compute_losses(wanted, condition, training=training)
                losses |= {f"part{i}_{name}": value for name, value in found.items()}
        total = sum(value for name, value in losses.items() if name.endswith("_loss"))
        return {"loss": total, **losses}

    def initialize(self, batches: Iterable[np.ndarray]) -> None:
        for i, part in enumerate(self.parts):
            part.initialize(self._seen_by(i, batches))

    def calibrate(self, batches: Iterable[np.ndarray]) -> None:
        for i, part in enumerate(self.parts):
            part.calibrate(self._seen_by(i, batches))

    def scores(self, batches: Iterable[np.ndarray]) -> dict[str, float]:
        return {
            f"{type(part).__name__} {i + 1}: {name}": value
            for i, part in enumerate(self.parts)
            for name, value in part.scores(self._seen_by(i, batches)).items()
        }

    def _seen_by(self, number: int, batches: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
        """Returns the images that a part encodes, uint8, given batches of the cascade's images."""

        def shrunk(batch: np.ndarray) -> np.ndarray:
            images = ops.convert_to_tensor(batch.astype("float32") / 127.5 - 1.0)
            small = ops.convert_to_numpy(self._encode(images, down_to=number + 1))
            return np.asarray(np.rint((np.clip(small, -1.0, 1.0) + 1.0) * 127.5), np.uint8)

        return _Mapped(shrunk, batches)

    # ---- on disk --------------------------------------------------------------------------------------------------

    def save_assets(self, path: str | Path) -> None:
        for i, part in enumerate(self.parts):
            folder = Path(path) / f"part{i}"
            folder.mkdir()
            part.save_assets(folder)

    def load_assets(self, path: str | Path) -> None:
        for i, part in enumerate(self.parts):
            part.load_assets(Path(path) / f"part{i}")


class _Mapped(Iterable[np.ndarray]):
    """Applies a function to each batch. It can be iterated as often as the original batches."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], batches: Iterable[np.ndarray]) -> None:
        self.function, self.batches = function, batches

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.function, self.batches)


def _trains(part: Decoder) -> bool:
    return type(part).compute_losses is not Decoder.compute_losses
