"""Runs with a decoder of embeddings of images: their stages, and variations and blends of images."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image
from safetensors.numpy import load_file

import kgen
from kgen import ConfigError, RunError, Space, Variations, open_dataset
from kgen.config import RunConfig
from kgen.pipeline.loading import load
from kgen.pipeline.stage_models import DecoderModel
from kgen.random import spherical
from kgen.runs.run import open_decoder, run
from kgen.testing.execution import perturb

pytestmark = pytest.mark.portable

FIT = {"steps": 2, "batch_size": 4, "learning_rate": 0.1, "warmup_steps": 0, "ema": None}
"""The large steps make the images depend on the embeddings and on the texts."""

CLIP = {
    "name": "clip/clip",
    "text": {"kind": "transformer", "width": 8, "depth": 1, "heads": 2, "length": 12},
    "image": {"kind": "convolutional", "size": 16, "width": 4, "multipliers": [1]},
    "dim": 12,
}
UNET = {"kind": "unet", "width": 8, "multipliers": [1], "blocks": 1, "attention": [], "head_dim": 8}
DECODER = {"name": "unclip/decoder", "network": UNET}
STEPS = {"steps": 1, "sampler": "euler"}


def config(encoder: dict[str, Any], decoder: dict[str, Any], **sections: Any) -> RunConfig:
    return RunConfig.from_dict(
        {
            "data": {"name": "shapes", "size": 16, "count": 16, "objects": 1},
            "encoder": encoder,
            "decoder": decoder,
            "generator": {"name": "unclip/prior", "network": {"kind": "causal", "width": 8, "depth": 1, "heads": 2}},
            "fit": FIT,
            "sample": {"every": 0, "options": {"steps": 1}},
            "evaluate": {"metrics": []},
            **sections,
        }
    )


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose encoder and decoder are trained, but not its generator. Tests must not change it."""
    path = tmp_path_factory.mktemp("done") / "run"
    run(config({**CLIP, "fit": FIT}, {**DECODER, "fit": FIT}), path, stage="decoder", log=lambda text: None)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two images of the size of the run."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    paths = [folder / "one.png", folder / "other.png"]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


def pixels(paths: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def blending(files: list[Path]) -> list[Any]:
    return ["--image", files[0], "--image", files[1]]


# ---- the command line ---------------------------------------------------------------------------------------------


def test_generate_blends_two_images(kgen: Any, done: Path, files: list[Path], tmp_path: Path) -> None:
    given = ["generate", done, *blending(files), "--blend", "0", "--blend", "0.5", "-n", "2", "--seed", "3"]
    steps = ["--set", "decoder.steps=1", "--set", "decoder.sampler=euler"]
    outcome = kgen(*given, *steps, "-o", "made/", cwd=tmp_path)
    names = [f"made/{name}.png" for name in ("0000-0", "0001-0-5", "0002-0", "0003-0-5")]
    assert outcome.status == 0 and outcome.out.split() == names, outcome
    model = Variations(*open_decoder(done))
    one, other = model.embed_images(pixels(files))
    between = spherical(one[None], other[None], np.array([0.0, 0.5]))
    expected = model.decode(between, n=2, seed=3, options=STEPS).swapaxes(0, 1).reshape(-1, 16, 16, 3)
    np.testing.assert_allclose(pixels([tmp_path / name for name in names]).astype(int), expected, atol=1)
    assert len({image.tobytes() for image in expected}) == 4
    facts = Image.open(tmp_path / names[3]).text
    assert (facts["blend"], facts["copy"], facts["seed"], facts["model"]) == ("0.5", "1", "3", "run")
    assert facts["image"] == "; ".join(map(str, files)) and '"steps": 1' in facts["options"] and "prompt" not in facts
    outcome = kgen(*given, *steps, "a red circle", "--scale", "2", cwd=tmp_path)
    assert outcome.status == 0 and outcome.out == "blend.png\n", outcome
    sheet = Image.open(tmp_path / "blend.png")
    assert (sheet.text["blend"], sheet.text["prompt"], sheet.text["images"]) == ("0; 0.5", "a red circle", "4")
    assert sheet.width == 4 + 2 * (32 + 4)


def test_a_blend_goes_from_the_first_image_to_the_second(
    kgen: Any, done: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, decode = [], Variations.decode

    def spied(self: Variations, embeddings: np.ndarray, **given: Any) -> np.ndarray:
        seen.append(embeddings)
        return decode(self, embeddings, **given)

    monkeypatch.setattr(Variations, "decode", spied)
    ends = ["--blend", "0", "--blend", "1", "--set", "decoder.steps=1"]
    assert kgen("generate", done, *blending(files), *ends, cwd=tmp_path).status == 0
    expected = Variations(*open_decoder(done)).embed_images(pixels(files))
    np.testing.assert_allclose(seen[0], expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_options_of_generate_that_do_not_belong_together(
    kgen: Any, done: Path, files: list[Path], tmp_path: Path
) -> None:
    one, two, blend = ["--image", files[0]], blending(files), ["--blend", "0.5"]
    for given, problem in (
        ([*one, *blend], "--blend needs two images, --image ONE --image OTHER, but there are 1"),
        (["a circle", *blend], "--blend needs two images, --image ONE --image OTHER, but there are 0"),
        ([*two, *one, *blend], "--blend needs two images, --image ONE --image OTHER, but there are 3"),
        (["a circle", *two], "leave the others out, or add --blend 0.5"),
        ([*two, *blend, "a", "b"], "--blend needs one PROMPT, which the decoder reads, or none, but not 2"),
        ([*two, *blend, "--strength", "0.5"], "--strength has no effect with --blend"),
        ([*two, *blend, "--mask", files[0]], "--mask has no effect with --blend"),
        ([*two, *blend, "--size", "8x8"], "--size has no effect with --blend"),
        ([*two, *blend, "--shared-noise"], "--shared-noise has no effect with --blend"),
        ([*two, *blend, "--set", "steps=1"], "--set steps=1: has no effect with --blend, which uses no generator"),
        ([*two, *blend, "--set", "decoder.steps=0"], "--set decoder.steps=0: decoder.steps: must be greater than 0"),
    ):
        kgen("generate", done, *given, cwd=tmp_path).refuses(problem)
    for given, problem in (([*two, "--blend", "1.5"], "--blend"), (one, "PROMPT")):
        outcome = kgen("generate", done, *given, cwd=tmp_path)
        assert outcome.status == 2 and outcome.err.startswith("Usage: kgen generate") and problem in outcome.err
    assert not list(tmp_path.iterdir())


def test_only_a_decoder_of_embeddings_blends_and_varies_images(
    kgen: Any, trained: Any, files: list[Path], tmp_path: Path
) -> None:
    problem = "the latents of decoder 'kgen/identity' are not embeddings: give a run with another decoder"
    kgen("generate", trained.directory, *blending(files), "--blend", "0.5", cwd=tmp_path).refuses(problem)
    kgen("vary", trained.directory, files[0], cwd=tmp_path).refuses(problem)


def test_vary_shows_images_with_their_variations(kgen: Any, done: Path, files: list[Path], tmp_path: Path) -> None:
    given = ["--set", "steps=1", "--set", "sampler=euler", "--seed", "1"]
    outcome = kgen("vary", done, *files, "-n", "3", *given, cwd=tmp_path)
    assert outcome.status == 0 and outcome.out == "variations.png\n", outcome
    sheet = Image.open(tmp_path / "variations.png")
    side, gap = 96, 4
    assert sheet.width == gap + 4 * (side + gap) and sheet.text["images"] == "8"
    shown = np.asarray(sheet)[gap : gap + side : 6, gap : gap + side : 6]
    np.testing.assert_array_equal(shown, pixels(files)[0])
    model = Variations(*open_decoder(done))
    made = model.decode(model.embed_images(pixels(files)), n=3, seed=1, options=STEPS)
    last = np.asarray(sheet)[gap : gap + side : 6, gap + 3 * (side + gap) : 3 * (side + gap) + gap + side : 6]
    np.testing.assert_allclose(last.astype(int), made[0, 2], atol=1)
    kgen("vary", done, tmp_path / "variations.png", cwd=tmp_path).refuses("is a grid of 8 images: give a single image")
    problem = "--set decoder.steps=1: decoder.steps: leave 'decoder.' out: all options here are those of the decoder"
    kgen("vary", done, files[0], "--set", "decoder.steps=1", cwd=tmp_path).refuses(problem)


def test_vary_follows_a_difference_of_texts(kgen: Any, done: Path, files: list[Path], tmp_path: Path) -> None:
    texts = ["--from", "a red circle", "--to", "a blue star", "--blend", "0", "--blend", "0.4"]
    given = ["--set", "steps=1", "--set", "sampler=euler", "-n", "2", "--seed", "5", "-o", "shift.png"]
    outcome = kgen("vary", done, files[0], *texts, *given, cwd=tmp_path)
    assert outcome.status == 0 and outcome.err == "", outcome
    sheet = Image.open(tmp_path / "shift.png")
    assert (sheet.text["from"], sheet.text["to"], sheet.text["images"]) == ("a red circle", "a blue star", "4")
    unheard = kgen("vary", done, files[0], "--to", "a red unicorn", "--blend", "0.3", "--set", "steps=1", cwd=tmp_path)
    assert unheard.status == 0 and "warning: text 'a red unicorn': 'unicorn' was not learned" in unheard.err, unheard
    model = Variations(*open_decoder(done))
    (embedding,) = model.embed_images(pixels(files[:1]))
    tokens = {n: ops.convert_to_tensor(x) for n, x in model.encoder.tokenize(["a red circle", "a blue star"]).items()}
    before, after = ops.convert_to_numpy(model.encoder.embed_texts(tokens))
    difference = (after - before) / np.linalg.norm(after - before) * np.linalg.norm(embedding)
    at = spherical(embedding[None], difference[None], np.array([0.0, 0.4]))
    made = model.decode(at, n=2, seed=5, options=STEPS)
    height = (sheet.height - 4) // 2  # of a row, with its captions
    for number, images in enumerate(made):  # a column for each angle, a row for each noise
        for row, image in enumerate(images):
            top, left = 4 + row * height, 4 + number * 100
            found = np.asarray(sheet)[top : top + 96 : 6, left : left + 96 : 6]
            np.testing.assert_allclose(found.astype(int), image, atol=1)
    assert len({image.tobytes() for image in made.reshape(4, -1)}) == 4


# ---- what the prior does ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_embeddings_are_measured_and_shown_in_the_report(kgen: Any, tmp_path: Path) -> None:
    path = tmp_path / "run"
    sample = {"every": 0, "options": {"steps": 1, "decoder": STEPS}}
    data = {"name": "shapes", "size": 16, "count": 40, "objects": 1, "holdout": ["blue star"]}
    whole = config({**CLIP, "fit": FIT}, {**DECODER, "fit": FIT}, data=data, sample=sample)
    run(whole, path, log=lambda text: None)
    kgen("embeddings", path, "--seeds", "2").refuses("kgen evaluate RUN --metric retrieval")
    assert kgen("evaluate", path, "--metric", "retrieval", "-n", "4").status == 0
    outcome = kgen("embeddings", path, "--seeds", "2", "-n", "3", "--set", "steps=2")
    assert outcome.status == 0 and outcome.out.endswith(f"{path / 'embeddings.json'}\n"), outcome
    found = json.loads((path / "embeddings.json").read_text(encoding="utf-8"))
    assert (found["seeds"], found["options"]["steps"], found["decoder"]) == (2, 2, STEPS)
    assert [(one["split"], one["embedding"], one["prompts"]) for one in found["results"]] == [
        (split, source, 3) for split in ("train", "holdout") for source in ("image", "prior", "text")
    ]
    image, prior = (one["values"] for one in found["results"][:2])
    assert image["cosine"] == pytest.approx([1.0, 1.0], abs=1e-5) and len(image) == 4
    pipeline, dataset = load(path), open_dataset(path)
    count = len(dataset.captions("train"))
    rows = [0, (count - 1) // 2, count - 1]
    captions = [dataset.captions("train")[row] for row in rows]
    wanted = Variations(pipeline.decoder, pipeline.encoder).embed_images(
        np.stack([dataset.image("train", row) for row in rows])
    )
    for seed in (0, 1):
        made = pipeline.generate(captions, seed=seed, output="latents", steps=2)
        cosines = (made * wanted).sum(1) / np.linalg.norm(made, axis=1) / np.linalg.norm(wanted, axis=1)
        assert prior["cosine"][seed] == pytest.approx(cosines.mean(), abs=5e-6)  # seeds differ by 4e-5
    assert {file.name for file in (path / "sections").iterdir()} == {
        *("embeddings.json", "variations.png", "blend.png", "difference.png")
    }
    assert "changed by the difference of the texts" in (path / "report.html").read_text(encoding="utf-8")
    kgen("embeddings", path, "--from", "nothing").refuses("--from 'nothing': no training image has this caption")


# ---- other runs and decoders ---------------------------------------------------------------------------------------


def test_the_decoder_of_a_run_needs_the_encoder_of_that_run(done: Path, tmp_path: Path) -> None:
    other = config({**CLIP, "fit": {**FIT, "steps": 1}}, {**DECODER, "from": str(done)})
    with pytest.raises(RunError, match=r"was trained with another encoder, .*: set encoder\.from to .*/run, too"):
        run(other, tmp_path / "run", log=lambda text: None)


def test_a_decoder_that_another_run_lacks_is_found_before_the_encoder_is_trained(tmp_path: Path) -> None:
    other = config({**CLIP, "fit": FIT}, {**DECODER, "from": str(tmp_path / "other")})
    with pytest.raises(RunError, match="other has no trained decoder: train it first, or set 'from' to another run"):
        run(other, tmp_path / "run", log=lambda text: None)
    assert not (tmp_path / "run" / "encoder").exists()


@pytest.mark.slow
def test_the_decoder_of_a_run_is_copied_with_its_encoder(done: Path, tmp_path: Path) -> None:
    source = {"from": str(done)}
    run(config({**CLIP, **source}, {**DECODER, **source}), tmp_path / "run", log=lambda text: None)
    for stage in ("encoder", "decoder"):
        first, copied = (load_file(path / stage / "model" / "weights.safetensors") for path in (done, tmp_path / "run"))
        assert first.keys() == copied.keys() and all(np.array_equal(first[name], copied[name]) for name in first)
    assert load(tmp_path / "run").generate("a red circle", steps=1, decoder=STEPS).shape == (1, 16, 16, 3)


@pytest.fixture(scope="module")
def published() -> ModuleType:
    """The module with which the tests of kgen-plugin-clip make published models."""
    folder = Path(__file__).parents[1] / "plugins" / "kgen-plugin-clip" / "tests"
    spec = importlib.util.spec_from_file_location("published", folder / "published.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_embeddings_of_a_published_clip_are_decoded_and_its_weights_stay(
    published: ModuleType, tmp_path: Path
) -> None:
    clip = published.random_model("quick_gelu")
    folder = published.save(clip, tmp_path / "published")
    encoder = kgen.make_encoder({"name": "clip/clip", "pretrained": str(folder)}, [])
    decoder: Any = kgen.make_decoder(DECODER, Space("continuous", (12, 12, 3)), encoder.condition_space, encoder)
    training = DecoderModel(decoder, encoder)
    training.compile(keras.optimizers.AdamW(0.1, weight_decay=0.5))
    own, shared = decoder.trainable_weights, encoder.weights
    before = [np.array(ops.convert_to_numpy(weight)) for weight in (*own, *shared)]
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3)).astype(np.uint8)
    training.fit({"image": images, "tokens": encoder.tokenize(published.TEXTS)}, epochs=2, verbose=0)
    assert not any(weight.trainable for weight in shared)
    same = [np.array_equal(ops.convert_to_numpy(now), old) for now, old in zip((*own, *shared), before, strict=True)]
    assert not all(same[: len(own)]) and all(same[len(own) :]) and len(shared) > 50
    model = Variations(decoder, encoder)
    latents = model.embed_images(images)
    colors = (images / 255.0 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.25]  # of the folder's image processor
    expected = published.theirs(clip, np.moveaxis(colors, -1, 1).astype("float32"))["image_embeds"] * np.sqrt(10)
    np.testing.assert_allclose(latents, expected, atol=1e-4)
    decoded = model.decode(latents, prompt="a red heart", options=STEPS)
    assert decoded.shape == (4, 1, 12, 12, 3) and len({image.tobytes() for image in decoded}) == 4


def test_a_cascade_enlarges_the_images_of_embeddings() -> None:
    encoder = kgen.make_encoder(CLIP, ["red", "blue"])
    encoder.null_condition()
    encoder.trainable = False
    large = {"name": "superres/regression", "factor": 2, "width": 4, "blocks": 1}
    choice = {"name": "superres/cascade", "decoders": [DECODER, large]}
    cascade: Any = kgen.make_decoder(choice, Space("continuous", (32, 32, 3)), encoder.condition_space, encoder)
    cascade.build(None)
    perturb(cascade.parts[0])
    assert cascade.latent_is_embedding and cascade.latent_space == Space("continuous", (12,), bounded=False)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    small = images.reshape(2, 16, 2, 16, 2, 3).mean((2, 4), dtype=np.float32) / 127.5 - 1.0
    model = Variations(cascade, encoder)
    latents = model.embed_images(images)
    np.testing.assert_allclose(latents, ops.convert_to_numpy(cascade.parts[0].encode(small)), atol=1e-4)
    alone = model.decode(latents, options={"parts": [STEPS]})
    assert alone.shape == (2, 1, 32, 32, 3)
    read = [model.decode(latents, prompt=text, options={"parts": [STEPS]}) for text in ("red", "blue")]
    assert not np.array_equal(*read) and not np.array_equal(alone, read[0])
    explicit = model.decode(latents, prompt="red", options={"parts": [{**STEPS, "text": False}, {}]})
    np.testing.assert_array_equal(explicit, alone)
    with pytest.raises(ConfigError, match="options of 3 decoders, but the cascade has 2"):
        model.decode(latents, options={"parts": [{}, {}, {}]})


def test_each_embedding_may_have_a_prompt_and_a_seed_of_its_own(done: Path, files: list[Path]) -> None:
    model = Variations(*open_decoder(done))
    embeddings = model.embed_images(pixels(files))
    texts, seeds = ["a small red circle in the middle", "a large blue star at the top"], [3, 5]
    both = model.decode(embeddings, n=2, prompt=texts, seed=seeds, options=STEPS)
    for made, embedding, prompt, seed in zip(both, embeddings, texts, seeds, strict=True):
        alone = model.decode(embedding[None], n=2, prompt=prompt, seed=seed, options=STEPS)[0]
        np.testing.assert_allclose(made.astype(int), alone, atol=1)
    with pytest.raises(ConfigError, match="3 prompts for 2 embeddings"):
        model.decode(embeddings, prompt=[*texts, ""], options=STEPS)
    with pytest.raises(ConfigError, match="3 seeds, but 2 prompts"):
        model.decode(embeddings, seed=[1, 2, 3], options=STEPS)


def test_images_that_are_not_finite_are_refused(done: Path) -> None:
    decoder, encoder = open_decoder(done)
    decoder.to_tokens.bias.assign(np.full(32, np.nan))
    with pytest.raises(RunError, match="EmbeddingDecoder decoded images that are not finite"):
        Variations(decoder, encoder).decode(np.ones((1, 12)), options=STEPS)
