"""The images of the sampling steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import kgen
from kgen.testing.execution import perturb

NETWORK = {"kind": "dit", "patch": 4, "width": 8, "depth": 1, "heads": 2}


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
    return kgen.assemble(
        encoder={"name": "text/bag", "dim": 8},
        generator={"name": "diffusion/diffusion", "network": NETWORK},
        decoder=decoder,
        image_space=kgen.Space("continuous", (8, 8, 3)),
        captions=["red heart", "blue star"],
    )


@pytest.mark.backends
def test_each_step_shows_the_expected_images() -> None:
    model, shown = pipeline(), []
    perturb(model.generator)  # whose last layer starts at zero, so that it would expect the same in each step
    options = {"n": 3, "seed": 1, "steps": 4, "sampler": "ddim"}
    plain = model.generate("red heart", **options)
    with kgen.watch_steps(shown.append):
        watched = model.generate("red heart", **options)
    assert [(images.shape, images.dtype) for images in shown] == [((3, 8, 8, 3), np.uint8)] * 4
    np.testing.assert_array_equal(shown[-1], watched)  # DDIM ends with the image that it expects
    assert np.abs(watched.astype(int) - plain).max() <= 1
    assert len({images.tobytes() for images in shown}) == 4, "each step expects something else"
    np.testing.assert_array_equal(model.generate("red heart", **options), plain)
    assert len(shown) == 4, "nobody watches any more"


@pytest.mark.portable
def test_a_decoder_of_several_steps_shows_its_own() -> None:
    shown: list[np.ndarray] = []
    with kgen.watch_steps(shown.append):
        images = pipeline(Refined(kgen.Space("continuous", (8, 8, 3)))).generate("red heart", steps=2)
    half, last = shown
    np.testing.assert_array_equal(last, images)
    assert np.abs((half - 127.5) * 2 - (last - 127.5)).max() <= 2
