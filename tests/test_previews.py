"""The images of the sampling steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from keras import ops
from parts import Words

import kgen

SPACE = kgen.Space("continuous", (8, 8, 3))


class Fading(kgen.Generator):
    """Halves the noise in each step. Halves are exact, so that every program computes the same bytes."""

    def compute_losses(self, x: Any, condition: Any, training: bool) -> dict[str, Any]:
        return {"loss": ops.mean(ops.square(x), axis=(1, 2, 3))}

    def noise_spec(self, **options: Any) -> Mapping[str, kgen.NoiseSpec]:
        return {"start": kgen.NoiseSpec("normal", self.space.shape)}

    def generate(self, condition: Any, null_condition: Any, noise: Mapping[str, Any], *, steps: kgen.Steps = 3) -> Any:
        def step(i: Any, x: Any) -> Any:
            kgen.show_step(0.5 * x)
            return 0.5 * x

        return ops.fori_loop(0, steps, step, noise["start"])


class Refined(kgen.Decoder):
    """Shows half of an image, then the image."""

    lossless = True

    @property
    def latent_space(self) -> kgen.Space:
        return self.image_space

    def encode(self, images: Any) -> Any:
        return images

    def decode(self, latent: Any, condition: Any, noise: Mapping[str, Any], *, steps: kgen.Steps = 2) -> Any:
        kgen.show_step(0.5 * latent)
        kgen.show_step(latent)
        return latent


def pipeline(decoder: Any = "identity") -> kgen.Pipeline:
    encoder = Words(dim=2)
    encoder.adapt(["red heart"])
    generator = Fading(SPACE, encoder.condition_space)
    return kgen.assemble(encoder=encoder, generator=generator, decoder=decoder, image_space=SPACE)


@pytest.mark.backends
def test_each_step_shows_its_images_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shown = pipeline(), []
    options = {"n": 3, "seed": 1, "batch_size": 2, "steps": 2}
    with kgen.watch_steps(shown.append):
        watched = model.generate("red heart", **options)
    assert [(images.shape, images.dtype) for images in shown] == [((n, 8, 8, 3), np.uint8) for n in (2, 2, 1, 1)]
    np.testing.assert_array_equal(np.concatenate(shown[1::2]), watched)
    twice = np.clip(2 * (watched - 127.5), -127.5, 127.5)  # before the last step, the noise was twice as large
    assert np.abs(np.concatenate(shown[::2]) - 127.5 - twice).max() <= 1.5

    def forbidden(*values: Any) -> None:
        raise AssertionError("nobody watches")

    monkeypatch.setattr("kgen.pipeline.sampler.call_on_host", forbidden)
    assert model.generate("red heart", **options).tobytes() == watched.tobytes()


@pytest.mark.portable
@pytest.mark.parametrize(("steps", "factors"), [(2, [0.5, 1.0]), (1, [4.0, 2.0, 1.0])])
def test_a_decoder_of_several_steps_shows_its_own(steps: int, factors: list[float]) -> None:
    shown: list[np.ndarray] = []
    with kgen.watch_steps(shown.append):
        images = pipeline(Refined(SPACE)).generate("red heart", decoder={"steps": steps})
    for image, factor in zip(shown, factors, strict=True):
        expected = np.clip(factor * (images - 127.5), -127.5, 127.5)
        assert np.abs(image - 127.5 - expected).max() <= 0.5 * factor + 0.5


@pytest.mark.portable
def test_several_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kgen.pipeline.sampler.batch_devices", lambda: 2)
    model = pipeline()
    with kgen.watch_steps(print), pytest.raises(kgen.RunError, match="one device"):
        model.generate("red heart")
