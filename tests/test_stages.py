"""A decoder that is trained in a stage of its own: once, resumed, kept, taken from another run; and what reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parts import Codec, Hues
from safetensors.numpy import load_file

from kgen.config import RunConfig
from kgen.data.datasets.shapes import Shapes
from kgen.data.frozen.latents import cached_latents
from kgen.errors import ConfigError, RunError
from kgen.experiments.directory import RunDirectory
from kgen.parts.saving import decoder_weights
from kgen.pipeline.loading import load
from kgen.runs.decoder_stage import DecoderStage
from kgen.runs.run import check, run
from kgen.training.fit import Progress, train

pytestmark = [pytest.mark.portable, pytest.mark.usefixtures("made_plugin", "cache")]

STEPS = 6


def configuration(**changes: Any) -> RunConfig:
    config: dict[str, Any] = {
        "data": {"name": "shapes", "size": 16, "count": 20, "holdout": ["purple square"]},
        "encoder": {"name": "text/bag", "dim": 8},
        "generator": "made/painter",
        "decoder": {
            "name": "made/codec",
            "channels": 2,
            "fit": {"steps": STEPS, "batch_size": 8, "checkpoint_every": 3},
        },
        "fit": {"steps": 4, "batch_size": 8},
        "sample": {"every": 0, "prompts": ["a large red circle in the middle"]},
    }
    return RunConfig.from_dict(config, [f"{key.replace('__', '.')}={value}" for key, value in changes.items()])


@pytest.fixture(scope="module")
def done(made_plugin: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, not to be written to."""
    path = tmp_path_factory.mktemp("done") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGEN_CACHE", str(path.parent / "cache"))
        run(configuration(), path, log=lambda text: None)
    return path


def weights(path: Path) -> dict[str, np.ndarray]:
    return load_file(path / "decoder" / "model" / "weights.safetensors")


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(second[name], array) for name, array in first.items())


class TrainingBegunError(Exception):
    """The decoder would be trained now."""


def refuse_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*arguments: Any, **options: Any) -> None:
        raise TrainingBegunError

    monkeypatch.setattr(DecoderStage, "train", train)


@pytest.mark.backends
def test_two_stages_leave_two_trainings(done: Path) -> None:
    manifest = RunDirectory(done).decoder_stage.read_manifest()
    assert manifest["step"] == STEPS and manifest["scores"]["PSNR"] > 0
    assert 0.5 < manifest["scores"]["latent deviation"] < 2
    assert (done / "decoder" / "samples" / "final.png").is_file()
    report = (done / "report.html").read_text()
    assert "latent deviation" in report and "PSNR" in report and "<td>training of the decoder</td>" in report
    assert "Images over time" not in report  # none were asked for
    pipeline = load(done)
    assert pipeline.generator.space == pipeline.decoder.latent_space
    trained = weights(done)
    loaded = decoder_weights(pipeline.decoder)
    assert trained.keys() == loaded.keys() and len(trained) == len(pipeline.decoder.weights)
    for path, array in trained.items():
        np.testing.assert_array_equal(array, np.asarray(loaded[path].numpy()), err_msg=path)


def test_the_decoder_stage_alone_and_then_the_rest(tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(configuration(), tmp_path / "run", stage="decoder")
    assert not (tmp_path / "run" / "model").exists()
    refuse_to_train(monkeypatch)
    run(configuration(), tmp_path / "run")
    first, second = (load_file(path / "model" / "weights.safetensors") for path in (tmp_path / "run", done))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_training_reads_only_latents(tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once they are cached, no image is read, and no decoder called, while the generator is trained."""
    monkeypatch.setenv("KGEN_CACHE", str(done.parent / "cache"))
    RunDirectory(tmp_path / "second").prepare(configuration())
    shutil.copytree(done / "decoder", tmp_path / "second" / "decoder")
    touched: list[str] = []

    def watched(*arguments: Any, **options: Any) -> Progress:
        with pytest.MonkeyPatch.context() as patch:
            for cls, name in ((Shapes, "image"), (Codec, "encode")):
                patch.setattr(cls, name, lambda *a, name=name, **k: touched.append(name))
            return train(*arguments, **{**options, "sheets": None})

    monkeypatch.setattr("kgen.experiments.trainer.train", watched)
    result = run(configuration(), tmp_path / "second")
    assert result.step == 4 and not touched


def test_restart_keeps_a_decoder_that_would_be_the_same(
    tmp_path: Path, done: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done, tmp_path / "run")
    refuse_to_train(monkeypatch)
    run(configuration(fit__steps=5), tmp_path / "run", restart=True, log=logged.append)
    assert any("nothing that it depends on has changed" in text for text in logged)
    assert same(weights(tmp_path / "run"), weights(done))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"decoder__channels": 3}, "decoder.channels: 2 there, 3 now"),
        ({"decoder__fit__steps": 5}, "decoder.fit.steps: 6 there, 5 now"),
        ({"data__count": 21}, "data.images"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
    ],
    ids=["option", "fit", "data", "seed"],
)
def test_restart_trains_changed_stages_and_prints_why(
    tmp_path: Path,
    done: Path,
    logged: list[str],
    change: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(done, tmp_path / "run")
    refuse_to_train(monkeypatch)
    with pytest.raises(TrainingBegunError):
        run(configuration(**change), tmp_path / "run", restart=True, log=logged.append)
    assert any("trained again" in text and reason in text for text in logged), logged
    assert not RunDirectory(tmp_path / "run").decoder_stage.read_manifest().get("finished")


def test_a_new_version_of_the_code_is_reported(tmp_path: Path, done: Path) -> None:
    shutil.copytree(done / "decoder", tmp_path / "run" / "decoder")
    stage = RunDirectory(tmp_path / "run").decoder_stage
    manifest = stage.read_manifest()
    manifest["depends_on"]["version"]["kgen-plugin-made"] = "0.0.1"
    stage.manifest.write_text(json.dumps(manifest))
    (tmp_path / "run" / "config.yaml").write_text(configuration().to_yaml())
    with pytest.raises(RunError, match=r"version.kgen-plugin-made: '0.0.1' there, .*\n.*--restart"):
        run(configuration(), tmp_path / "run")


def test_imported_from_another_run(tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_train(monkeypatch)
    config = configuration(decoder=f"{{from: {done}}}")
    assert config.decoder.options["channels"] == 2
    run(config, tmp_path / "run")
    assert same(weights(tmp_path / "run"), weights(done))
    data, read = Shapes(size=16, count=20, holdout=("purple square",)), []
    for path in (done, tmp_path / "run"):
        cache = cached_latents(load(path).decoder, data, "train", tmp_path / path.name)
        read.append(cache.lookup(range(len(cache))))
    np.testing.assert_array_equal(*read)
    shutil.rmtree(tmp_path / "run" / "decoder" / "checkpoints")
    assert RunConfig.load(tmp_path / "run" / "config.yaml") == config  # and needs the other run no more


def test_a_cascade_that_shares_no_weights_may_have_another_encoder_there(tmp_path: Path) -> None:
    """The class takes the encoder for its first decoder, which may need none."""
    first = {"name": "superres/regression", "factor": 2, "width": 4, "blocks": 1}
    fit = {"steps": 1, "batch_size": 4}
    changes = {"encoder": "text/none", "decoder": {"name": "superres/cascade", "decoders": [first], "fit": fit}}
    run(configuration(**changes), tmp_path / "there", stage="decoder")
    config = configuration(encoder={"name": "made/hues", "fit": fit}, decoder={"from": str(tmp_path / "there")})
    here = RunDirectory(tmp_path / "here")
    here.path.mkdir()
    DecoderStage(config, here, Shapes(size=16, count=20), Hues()).import_from_run(lambda text: None)
    assert same(weights(tmp_path / "here"), weights(tmp_path / "there"))


def test_missing_decoders_are_refused(tmp_path: Path, done: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run directory"):
        configuration(decoder=f"{{from: {tmp_path}}}")
    untrained = tmp_path / "untrained"
    RunDirectory(untrained).prepare(configuration())
    with pytest.raises(RunError, match="untrained has no trained decoder"):
        run(configuration(decoder=f"{{from: {untrained}}}"), tmp_path / "run")
    pixels = tmp_path / "pixels"
    RunDirectory(pixels).prepare(configuration(decoder="identity"))
    with pytest.raises(ConfigError, match="has trained no decoder"):
        configuration(decoder=f"{{from: {pixels}}}")
    with pytest.raises(RunError, match="images of 16x16x3, but the run's are 32x32x3"):
        run(configuration(decoder=f"{{from: {done}}}", data__size=32), tmp_path / "larger")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": "codecs/kl-autoencoder"}, "must be trained: set 'fit"),
        ({"decoder": "{name: identity, fit: {steps: 3}}"}, "'kgen/identity' has nothing to train: leave 'fit' out"),
        ({"decoder__from": "runs/x"}, "is already trained: leave out one of the two"),
        ({"decoder": "{from: 3}"}, "must be a run directory, got 3"),
        ({"decoder__fit": "{stepps: 3}"}, "decoder.fit.stepps: unknown"),
        ({"decoder__fit": "3"}, "decoder.fit: must be a mapping"),
        ({"decoder": "{name: codecs/kl-autoencoder, data: shapes}"}, "must be trained"),
        ({"decoder__data": "{name: shapess}"}, "shapess"),
    ],
)
def test_bad_configurations(change: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        configuration(**change)
    assert message in str(error.value), error.value


@pytest.mark.slow
def test_the_decoder_can_have_separate_data(tmp_path: Path) -> None:
    own = configuration(decoder__data="{name: shapes, size: 16, count: 12}", fit__steps=2)
    run(own, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"its images are 32x32x3 .*, but the run's are 16x16x3"):
        run(configuration(decoder__data="{name: shapes, size: 32, count: 12}"), tmp_path / "other")
    assert check(own).decoder.latent_space.shape == (8, 8, 2)


def test_changed_images_of_the_decoder_are_refused_or_noted(
    tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done / "decoder", tmp_path / "run" / "decoder")
    data = Shapes(size=16, count=20, holdout=("purple square",))
    stage = DecoderStage(configuration(), RunDirectory(tmp_path / "run"), data, None)  # type: ignore[arg-type]
    monkeypatch.setattr(Shapes, "fingerprint", lambda self: "other")
    with pytest.raises(RunError, match=r"the images or captions have changed: continue with the changed data"):
        stage.check()
    stage.check(changed_data=True)
    stage.check()
