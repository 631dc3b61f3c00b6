"""Images that begin as images: changed by a generator, encoded and decoded, made larger."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_superres.regression import Regression
from PIL import Image

import kgen
from kgen import ConfigError, SpaceError
from kgen.config import RunConfig
from kgen.parts.construction import generator_for, make_encoder
from kgen.pipeline.decoding.upscaling import upscale
from kgen.pipeline.inpainting import downsample_mask
from kgen.runs.run import open_decoder, run

pytestmark = [pytest.mark.portable, pytest.mark.usefixtures("made_plugin")]

PROMPT = "a large red circle in the middle"
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)


def configuration() -> RunConfig:
    fit = {"steps": 4, "batch_size": 8}
    return RunConfig.from_dict(
        {
            "data": {"name": "shapes", "size": 16, "count": 20, "holdout": ["purple square"]},
            "encoder": {"name": "text/bag", "dim": 8},
            "generator": "made/editor",
            "decoder": {"name": "superres/regression", "factor": 2, "width": 8, "blocks": 1, "fit": fit},
            "fit": {"steps": 2, "batch_size": 8},
            "sample": {"every": 0, "prompts": [PROMPT]},
        }
    )


@pytest.fixture(scope="module")
def alone(made_plugin: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which the decoder is trained, and nothing else, not to be written to."""
    path = tmp_path_factory.mktemp("image-to-image") / "alone"
    run(configuration(), path, stage="decoder", log=lambda text: None)
    return path


@pytest.fixture(scope="module")
def trained(alone: Path) -> Path:
    """A finished run of small images and their enlargement, not to be written to."""
    path = Path(shutil.copytree(alone, alone.with_name("run")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGEN_CACHE", str(path.parent / "cache"))
        run(configuration(), path, log=lambda text: None)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "image.png"
    Image.fromarray(IMAGE).resize((40, 30)).save(path)
    return path


NETWORKS: dict[str, dict[str, Any]] = {
    "diffusion/diffusion": {"kind": "dit", "patch": 4, "width": 8, "depth": 1, "heads": 2},
    "vae/vae": {"width": 4, "multipliers": [1], "attention": []},
}


@functools.cache
def pixels(generator: str = "diffusion/diffusion") -> kgen.Pipeline:
    """A pipeline for images of 16x16, which is not trained."""
    return kgen.assemble(
        encoder={"name": "text/bag", "dim": 8},
        generator={"name": generator, "network": NETWORKS[generator]},
        image_space=kgen.Space("continuous", (16, 16, 3)),
        captions=[PROMPT],
    )


# ---- changing an image ----------------------------------------------------------------------------------------------


def test_the_strength_goes_from_the_image_itself_to_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "kgen.backend.compiled.compile_sampling", lambda looped=None: False
    )  # XLA takes longer than four steps
    pipeline = pixels()
    options = {"sampler": "ddim", "steps": 4, "seed": 3}

    def far(strength: float) -> float:
        made = pipeline.generate(PROMPT, image=IMAGE, strength=strength, **options)[0]
        return float(np.abs(made.astype(float) - IMAGE).mean())

    # an untrained network says that the velocity is 0: x stays what the noise made of it
    distances = [far(strength) for strength in (0.01, 0.1, 0.3)]
    assert distances[0] < 3.0 and distances == sorted(distances)
    whole = pipeline.generate(PROMPT, image=IMAGE, strength=1.0, **options)
    np.testing.assert_array_equal(whole, pipeline.generate(PROMPT, **options))


@pytest.mark.backends
def test_prompts_and_copies_start_from_the_same_image() -> None:
    pipeline = pixels()
    made = pipeline.generate([PROMPT, "a blue star"], n=2, image=IMAGE, strength=0.05, steps=1)
    assert made.shape == (4, 16, 16, 3)
    assert np.abs(made.astype(float) - IMAGE).mean() < 20
    assert np.abs(made[0].astype(float) - made[1]).max() > 0


def test_generators_that_cannot_start_from_an_image_are_named() -> None:
    with pytest.raises(ConfigError, match="cannot start from an image"):
        pixels("vae/vae").generate(PROMPT, image=IMAGE)
    with pytest.raises(ConfigError, match="'strength' needs an image"):
        pixels().generate(PROMPT, strength=0.5)
    with pytest.raises(ConfigError, match=r"uint8 \(16, 16, 3\), not uint8 \(8, 16, 3\)"):
        pixels().generate(PROMPT, image=IMAGE[:8])
    with pytest.raises(ConfigError, match="strength"):
        pixels().generate(PROMPT, image=IMAGE, strength=0.0)


def test_a_run_file_has_no_strength() -> None:
    data = {**configuration().dump(), "sample": {"options": {"strength": 0.5}}}
    with pytest.raises(ConfigError, match=r"sample\.options\.strength: needs an image .*--image"):
        RunConfig.from_dict(data)


# ---- inpainting -----------------------------------------------------------------------------------------------------


@functools.cache
def cells(size: int) -> kgen.Pipeline:
    """A lossless pipeline whose latents are tokens, one for `size` x `size` pixels of one gray level."""
    decoder = Blocks(kgen.Space("continuous", (16, 16, 1)), size=size)
    encoder = make_encoder({"name": "text/bag", "dim": 8}, [PROMPT])
    network = {"width": 8, "depth": 1, "heads": 2}
    generator = generator_for({"name": "tokens/nar", "network": network}, decoder, encoder)
    return kgen.assemble(encoder=encoder, generator=generator, decoder=decoder, captions=[PROMPT])


class Blocks(kgen.Decoder):
    """Each token is the level of a block of pixels."""

    def __init__(self, image_space: kgen.Space, *, size: int = 1, **kwargs: Any) -> None:
        super().__init__(image_space, **kwargs)
        self.size = size

    @property
    def latent_space(self) -> kgen.Space:
        height, width, _ = self.image_space.shape
        return kgen.Space("tokens", (height // self.size, width // self.size), vocabulary=256)

    def encode(self, images: Any) -> Any:
        levels = ops.round((images[:, :: self.size, :: self.size, 0] + 1.0) * 127.5)
        return ops.cast(levels, "int32")

    def decode(self, latent: Any, condition: Any, noise: Any) -> Any:
        levels = ops.cast(latent, "float32")[..., None] / 127.5 - 1.0
        return ops.repeat(ops.repeat(levels, self.size, axis=1), self.size, axis=2)


@pytest.mark.backends
def test_a_mask_chooses_the_cells_that_are_inpainted() -> None:
    image = np.kron(np.random.default_rng(0).integers(0, 256, (4, 4)), np.ones((4, 4))).astype(np.uint8)[..., None]
    mask = np.zeros((16, 16), np.uint8)
    mask[3, 4], mask[8:, 12:], mask[8, 0] = 255, 128, 127  # one pixel of a cell; two cells; not white
    edit_mask = np.zeros((4, 4), bool)
    edit_mask[0, 1] = edit_mask[2:, 3] = True
    outside = ~np.kron(edit_mask, np.ones((4, 4), bool)).astype(bool)
    made = cells(4).generate([PROMPT, "star"], n=2, image=image, mask=mask, steps=2)
    assert made.shape == (4, 16, 16, 1)
    for generated in made:
        np.testing.assert_array_equal(generated[outside], image[outside])
        assert all((generated[4 * i, 4 * j] != image[4 * i, 4 * j]).any() for i, j in np.argwhere(edit_mask))
    assert (made[0] != made[1]).any()
    np.testing.assert_array_equal(downsample_mask(mask[..., None], *SPACES), edit_mask)


SPACES = (kgen.Space("continuous", (16, 16, 1)), kgen.Space("tokens", (4, 4), vocabulary=2))


def test_a_mask_that_cannot_be_used() -> None:
    image, mask = IMAGE[..., :1], np.full((16, 16), 255, np.uint8)
    pipeline = cells(4)
    with pytest.raises(ConfigError, match="a mask needs an image to start from, but there is none"):
        pipeline.generate(PROMPT, mask=mask)
    with pytest.raises(ConfigError, match=r"the mask must be uint8 \(16, 16\), not uint8 \(8, 16\)"):
        pipeline.generate(PROMPT, image=image, mask=mask[:8])
    with pytest.raises(ConfigError, match="not float64"):
        pipeline.generate(PROMPT, image=image, mask=mask / 255.0)
    with pytest.raises(ConfigError, match="nothing white"):
        pipeline.generate(PROMPT, image=image, mask=mask // 2)
    with pytest.raises(ConfigError, match="'strength' has no effect with a mask"):
        pipeline.generate(PROMPT, image=image, mask=mask, strength=0.5)
    with pytest.raises(ConfigError, match="Diffusion changes an image as a whole: leave the mask out"):
        pixels().generate(PROMPT, image=IMAGE, mask=mask)
    with pytest.raises(ConfigError, match="VAE cannot start from an image"):
        pixels("vae/vae").generate(PROMPT, image=IMAGE, mask=mask)
    for shape in ((5, 4), (16,)):
        with pytest.raises(ConfigError, match="divide an image into cells"):
            downsample_mask(mask, SPACES[0], kgen.Space("tokens", shape, vocabulary=2))


# ---- making images larger ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_upscale_works_at_any_size_with_the_trained_weights(trained: Path) -> None:
    decoder, encoder = open_decoder(trained)
    assert isinstance(decoder, Regression)
    small = IMAGE[:8, :8]
    large = upscale(decoder, encoder, small)
    other = upscale(decoder, encoder, IMAGE[:8, :12])
    assert large.shape == (16, 16, 3) and other.shape == (16, 24, 3)
    # far from the edge that was added, both see the same
    np.testing.assert_allclose(large[:, :2].astype(int), other[:, :2].astype(int), atol=1)
    with pytest.raises(ConfigError, match="steps"):
        upscale(decoder, encoder, small, options={"steps": 3})


def test_upscale_refuses_unsupported_inputs() -> None:
    pipeline = pixels()
    with pytest.raises(ConfigError, match="not small images"):
        upscale(pipeline.decoder, pipeline.encoder, IMAGE)
    spaces = {"image_space": kgen.Space("continuous", (16, 16, 3)), "condition_space": pipeline.encoder.condition_space}
    network = {"width": 4, "multipliers": [1, 1, 1], "blocks": 1, "head_dim": 4}
    decoder = kgen.make_decoder({"name": "superres/diffusion", "factor": 2, "network": network}, **spaces)
    decoder.build(None)
    with pytest.raises(SpaceError, match="10x16"):
        upscale(decoder, pipeline.encoder, IMAGE[:5, :8])


# ---- the command line ------------------------------------------------------------------------------------------------


def test_commands(kgen, trained: Path, file: Path, tmp_path: Path) -> None:
    done = kgen("generate", trained, "star", "--image", file, "--strength", "0.3", cwd=tmp_path)
    assert done.status == 0, done.err
    with Image.open(tmp_path / "star.png") as image:
        assert image.size == (16, 16) and image.text["strength"] == "0.3"
    done = kgen("reconstruct", trained, file, file, cwd=tmp_path)
    assert done.status == 0 and "reconstruct.png: PSNR" in done.out, done.err
    done = kgen("upscale", trained, file, "-o", "large", cwd=tmp_path)
    assert done.status == 0, done.err
    with Image.open(tmp_path / "large" / "image.png") as image:
        assert image.size == (80, 60)


def test_a_mask_belongs_to_its_image(kgen, trained: Path, file: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    Image.new("L", (40, 31), "white").save(mask)
    given = ("generate", trained, "star", "--image", file, "--mask", mask)
    kgen(*given, cwd=tmp_path).refuses(f"--mask {mask}: must have the size of {file}, 40x30, not 40x31")
    Image.new("L", (40, 30), "white").save(mask)
    kgen(*given, cwd=tmp_path).refuses("Editor changes an image as a whole: leave the mask out")


def test_bad_input(kgen, trained: Path, file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(file.read_bytes()[:60])
    kgen("generate", trained, "star", "--strength", "0.3", cwd=tmp_path).refuses("--strength", "--image FILE")
    kgen("generate", trained, "star", "--image", tmp_path / "none.png", cwd=tmp_path).refuses("none.png")
    kgen("generate", trained, "star", "--mask", file, cwd=tmp_path).refuses("--mask", "--image FILE")
    kgen("upscale", trained, broken, cwd=tmp_path).refuses("broken.png")
    kgen("upscale", trained, file, "--set", "steps=3", cwd=tmp_path).refuses("steps")
    kgen("reconstruct", trained, file, "-o", "sheet.gif", cwd=tmp_path).refuses("'.png'")


def test_the_decoders_stage_alone_is_enough(trained: Path, alone: Path) -> None:
    assert not (alone / "model").exists()
    decoder, _ = open_decoder(alone)
    whole, _ = open_decoder(trained)
    for one, other in zip(decoder.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
