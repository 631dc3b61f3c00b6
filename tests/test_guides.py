"""A saved model that guides another one: `guide: {from: RUN, step: N}`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import Outcome, Trained

import kgen as api
from kgen.config import RunConfig
from kgen.experiments.directory import RunDirectory
from kgen.experiments.experiment import open_experiment
from kgen.pipeline import guides
from kgen.runs import evaluation
from kgen.runs.run import run
from kgen.testing.execution import perturb

pytestmark = pytest.mark.portable

CAPTIONS = ["red circle", "blue square"]
OPTIONS: dict[str, Any] = {"sampler": "euler", "steps": 1}


def saved(folder: Path, width: int = 8, size: int = 16, seed: int = 0, **parts: Any) -> Path:
    """Saves an untrained diffusion pipeline, whose weights are not zero, and returns the folder."""
    keras.utils.set_random_seed(seed)
    network = {"kind": "dit", "patch": 4, "width": width, "depth": 1, "heads": 2}
    choices = {
        "encoder": {"name": "text/bag", "dim": 8},
        "generator": {"name": "diffusion/diffusion", "network": network},
        "captions": CAPTIONS,
        "image_space": (size, size, 3),
        **parts,
    }
    made = api.assemble(**choices)
    perturb(made.generator, 0.3)
    made.save(folder)
    return folder


# ---- from a run file, the command line and Python ------------------------------------------------------------------


def test_a_guide_travels_from_yaml_to_the_command_line(
    kgen: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "small", 4, encoder={"name": "text/bag", "dim": 4})
    config = {
        "name": "main",
        "data": {"name": "shapes", "size": 16, "count": 40},
        "encoder": {"name": "text/bag", "dim": 8},
        "generator": {"name": "diffusion/diffusion", "network": {"kind": "dit", "patch": 4, "width": 8, "depth": 1}},
        "fit": {"steps": 4, "batch_size": 4, "checkpoint_every": 2},
        "sample": {"every": 0, "prompts": CAPTIONS, "options": {**OPTIONS, "guide": "small", "autoguidance": 3}},
    }
    config["generator"]["network"]["heads"] = 2
    result = run(RunConfig.from_dict(config), "main", log=lambda text="": None)
    assert RunConfig.load("main/config.yaml").sample.options["guide"] == "small"
    pipeline = api.load("main")
    perturb(pipeline.generator, 0.3)
    pipeline.save("main/model")  # a network that has learned nothing makes the same image whatever guides it
    alone = pipeline.generate(CAPTIONS, **OPTIONS)
    guided = pipeline.generate(CAPTIONS, **OPTIONS, guide="small", autoguidance=3)
    earlier = pipeline.generate(CAPTIONS, **OPTIONS, guide={"from": "main", "step": 2}, autoguidance=3)
    assert all(np.abs(one.astype(int) - other).max() > 8 for one, other in ((alone, guided), (guided, earlier)))
    assert result.grid.is_file()
    numbers = [f"--set={name}={value}" for name, value in {**OPTIONS, "autoguidance": 3}.items()]
    made = kgen("generate", "main", *CAPTIONS, "--set=guide.from=small", *numbers, "-o", "images/")
    assert made.status == 0, made
    files = sorted(Path("images").glob("*.png"))
    written = np.stack([api.read_image(file, 3) for file in files])
    np.testing.assert_array_equal(written, guided)


def test_a_guide_may_be_a_path_and_its_step_a_number_of_numpy(tmp_path: Path) -> None:
    pipeline, folder = api.load(saved(tmp_path / "main")), saved(tmp_path / "guide", 4)
    given: list[Any] = [str(folder), folder, {"from": folder}]
    options = [pipeline.checked_options({"guide": guide, "autoguidance": 3.0})[0]["guide"] for guide in given]
    assert options == [{"from": str(folder), "step": None}] * 3
    for wrong, message in (
        ({"from": folder, "step": np.int64(3)}, "has no checkpoint of step 3"),
        ({"from": folder, "step": object()}, "guide: must be plain data"),
    ):
        with pytest.raises(api.KgenError, match=message):
            pipeline.checked_options({"guide": wrong, "autoguidance": 3.0})


def test_a_guide_that_was_saved_again_is_loaded_again(tmp_path: Path) -> None:
    pipeline, folder = api.load(saved(tmp_path / "main")), saved(tmp_path / "guide", 4)
    given = {"guide": {"from": str(folder)}, "autoguidance": 3.0}
    first, again = (pipeline.checked_options(given)[1] for _ in range(2))
    assert first.pipeline is again.pipeline and first.key == again.key
    saved(folder, 4, seed=1)
    other = pipeline.checked_options(given)[1]
    assert other.key != first.key
    weights = [each.pipeline.generator.trainable_variables[0].numpy() for each in (first, other)]
    assert np.any(weights[0] != weights[1])


def test_an_interrupted_evaluation_does_not_continue_with_another_guide(tmp_path: Path) -> None:
    pipeline, folder = api.load(saved(tmp_path / "main")), saved(tmp_path / "guide", 4)
    config = RunConfig.from_dict(
        {
            "data": {"name": "shapes", "size": 16, "count": 8},
            "encoder": {"name": "text/bag", "dim": 8},
            "generator": {
                "name": "diffusion/diffusion",
                "network": {"kind": "dit", "patch": 4, "width": 8, "heads": 2},
            },
            "fit": {"steps": 1, "batch_size": 4},
            "sample": {"options": {**OPTIONS, "guide": str(folder), "autoguidance": 3}},
        }
    )
    experiment = open_experiment(config)
    first, again = (evaluation._described(experiment, RunDirectory(tmp_path), pipeline, 1) for _ in range(2))
    saved(folder, 4, seed=1)
    assert first == again != evaluation._described(experiment, RunDirectory(tmp_path), pipeline, 1)


def test_a_guide_reads_the_fields_that_it_knows(tmp_path: Path) -> None:
    """The model reads a caption and a label, its guide only the caption."""
    both = [{"name": "text/bag", "dim": 8}, {"name": "text/label", "dim": 8, "classes": ["a", "b"]}]
    prompts = [{"caption": "red circle", "label": "a"}, {"caption": "blue square", "label": "b"}]
    data = [{"caption": caption, "label": "a"} for caption in CAPTIONS]
    pipeline = api.load(saved(tmp_path / "main", encoder=both, captions=data))
    guide = pipeline.checked_options({"guide": str(saved(tmp_path / "guide", 4)), "autoguidance": 2.0})[1]
    wanted = guide.pipeline.encoder.tokenize(CAPTIONS)
    for name, tokens in guide.tokenize(prompts).items():
        np.testing.assert_array_equal(tokens, wanted[name])
    with pytest.raises(api.ConfigError, match="it has label, but encoder 'text/bag' reads caption"):
        guide.tokenize([{"label": "a"}])


# ---- an earlier step of a training -----------------------------------------------------------------------------------


def test_a_checkpoint_has_the_weights_that_the_run_saved_at_its_step(trained: Trained, toy: None) -> None:
    """The last checkpoint has those of the final pipeline, which are averages."""
    final, last, earlier = (
        api.load(trained.directory),
        api.load(trained.directory, step=6),
        api.load(trained.directory, step=3),
    )
    for one, same, other in zip(
        *(pipeline.generator.trainable_variables for pipeline in (final, last, earlier)), strict=True
    ):
        np.testing.assert_array_equal(one.numpy(), same.numpy())
        assert np.any(one.numpy() != other.numpy())
    with pytest.raises(api.RunError, match=r"has no checkpoint of step 4: it has those of 3, 6.*fit\.keep"):
        api.load(trained.directory, step=4)


@pytest.mark.parametrize("fit", [{"ema": None}, {"frozen": ["*/bias"]}], ids=["without averages", "frozen biases"])
def test_a_checkpoint_of_another_training(fit: dict[str, Any], toy: None, tmp_path: Path) -> None:
    config = {
        "data": {"name": "squares", "colors": ["red", "green"]},
        "encoder": "letters",
        "generator": "toy/means",
        "fit": {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "learning_rate": 0.05, **fit},
    }
    run(RunConfig.from_dict(config), tmp_path / "run", log=lambda text="": None)
    final, last, earlier = (api.load(tmp_path / "run", step=step) for step in (None, 4, 2))
    for one, same in zip(final.weights, last.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), same.numpy())
    assert any(np.any(one.numpy() != other.numpy()) for one, other in zip(final.weights, earlier.weights, strict=True))


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved pipelines, of which only the first two go together."""
    folder = tmp_path_factory.mktemp("pipelines")
    saved(folder / "main")
    saved(folder / "small", 4)
    saved(folder / "large", size=32)
    saved(folder / "gan", generator={"name": "gan/gan", "width": 4, "multipliers": [1], "latent_dim": 4, "features": 4})
    saved(folder / "labels", encoder={"name": "text/label", "dim": 8, "classes": ["red", "blue"]}, captions=["red"])
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("guide.from=FOLDER/none", "the guide FOLDER/none: there is no such folder: give a finished run"),
        ("guide.from=FOLDER/empty", "the guide FOLDER/empty: FOLDER/empty: it contains no trained weights"),
        ("guide.from=FOLDER/large", "the guide FOLDER/large cannot guide this model: its images are 32x32x3"),
        ("guide.from=FOLDER/gan", "the guide FOLDER/gan cannot guide this model: it is a GAN, not a Diffusion"),
        ("guide.from=FOLDER/labels", "the guide FOLDER/labels cannot read the prompt: "),
        ("guide={from: FOLDER/small, step: 3}", "FOLDER/small has no checkpoint of step 3: it has none"),
        ("guide={from: FOLDER/small, stp: 3}", "guide.stp: unknown key; did you mean 'step'?"),
        ("guide=3", "guide: must be the path of a run, or a mapping with 'from', got 3"),
        ("guide={step: 3}", "guide.from: is required"),
    ],
)
def test_a_guide_that_cannot_be_used_is_refused(
    kgen: Callable[..., Outcome], folders: Path, tmp_path: Path, given: str, message: str
) -> None:
    """Labels read a caption as a class."""
    given, message = (text.replace("FOLDER", str(folders)) for text in (given, message))
    arguments = (f"--set={given}", "--set=autoguidance=2", "-o", tmp_path / "image.png")
    kgen("generate", folders / "main", "red circle", *arguments).refuses(message)


def test_a_guide_needs_the_same_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = {
        "name": "codecs/kl-autoencoder",
        "network": {"width": 4, "multipliers": [1], "patch": 2, "attention": False},
    }
    generator = {
        "name": "diffusion/diffusion",
        "network": {"kind": "dit", "patch": 2, "width": 4, "depth": 1, "heads": 2},
    }
    parts = {"decoder": codec, "generator": generator, "size": 16}
    main, twin, other, pixels = (
        saved(tmp_path / "main", **parts),
        saved(tmp_path / "twin", **parts),
        saved(tmp_path / "other", seed=1, **parts),
        saved(tmp_path / "pixels", size=16),
    )
    pipeline = api.load(main)
    given = {"guide": str(twin), "autoguidance": 2.0}
    assert pipeline.checked_options(given)[1] is not None
    with monkeypatch.context() as patch:
        patch.delattr(guides, "_equal")
        assert pipeline.checked_options(given)[1] is not None, "large decoders are compared only once"
    with pytest.raises(api.ConfigError, match=r"it has another decoder, so that its latents have another meaning"):
        pipeline.checked_options({"guide": str(other), "autoguidance": 2.0})
    with pytest.raises(api.ConfigError, match="its latents are 16x16x3 continuous, but those of this model are"):
        pipeline.checked_options({"guide": str(pixels), "autoguidance": 2.0})


def test_the_run_file_is_checked_for_its_guide_before_the_training(tmp_path: Path, toy: None) -> None:
    config = {
        "data": {"name": "shapes", "size": 16, "count": 40},
        "encoder": {"name": "text/bag", "dim": 8},
        "generator": {"name": "diffusion/diffusion", "network": {"kind": "dit", "patch": 4, "width": 8, "heads": 2}},
        "fit": {"steps": 4, "batch_size": 4},
        "sample": {"options": {"guide": {"from": "nowhere"}, "autoguidance": 2}},
    }
    with pytest.raises(api.RunError, match="the guide nowhere: there is no such folder"):
        run(RunConfig.from_dict(config), tmp_path / "run", log=lambda text="": None)
    assert not (tmp_path / "run").exists()
    config["generator"] = "toy/means"
    with pytest.raises(api.ConfigError, match=r"sample\.options\.guide: unknown key"):
        RunConfig.from_dict(config)
