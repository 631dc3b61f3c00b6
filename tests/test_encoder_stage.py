"""An encoder with a separate training stage: it is trained once, resumed, frozen, reused, and imported from a run."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from parts import Hues, Painter, Tints, Words
from safetensors.numpy import load_file

import kgen
from kgen.config import RunConfig
from kgen.config.changes import changes
from kgen.data.datasets.shapes import Shapes
from kgen.errors import ConfigError, PluginError, RunError, RunInterruptedError
from kgen.experiments.directory import RunDirectory
from kgen.parts.saving import encoder_weights
from kgen.pipeline.loading import load
from kgen.pipeline.stage_models import EncoderModel
from kgen.runs.encoder_stage import EncoderStage
from kgen.runs.run import check, run

pytestmark = [pytest.mark.portable, pytest.mark.usefixtures("made_plugin", "cache")]

STEPS = 6


def configuration(**given: Any) -> RunConfig:
    config: dict[str, Any] = {
        "data": {"name": "shapes", "size": 16, "count": 20, "holdout": ["purple square"]},
        "encoder": {"name": "made/hues", "fit": {"steps": STEPS, "batch_size": 8, "checkpoint_every": 3}},
        "generator": "made/painter",
        "fit": {"steps": 4, "batch_size": 8},
        "sample": {"every": 0, "prompts": ["a large red circle in the middle"]},
    }
    return RunConfig.from_dict(config, [f"{key.replace('__', '.')}={value}" for key, value in given.items()])


@pytest.fixture(scope="module")
def done(made_plugin: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which tests must not change."""
    path = tmp_path_factory.mktemp("done") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGEN_CACHE", str(path.parent / "cache"))
        run(configuration(), path, log=lambda text: None)
    return path


def weights(path: Path) -> dict[str, np.ndarray]:
    return load_file(path / "encoder" / "model" / "weights.safetensors")


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(second[name], array) for name, array in first.items())


class TrainingBegunError(Exception):
    """The encoder would be trained now."""


def refuse_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*arguments: Any, **options: Any) -> None:
        raise TrainingBegunError

    monkeypatch.setattr(EncoderStage, "train", train)


# ---- the training ------------------------------------------------------------------------------------------------


@pytest.mark.backends
def test_the_encoder_is_trained_first_and_then_frozen(done: Path) -> None:
    """The pipeline has the weights that the stage saved, and they differ from the initial weights."""
    trained, pipeline = weights(done), load(done)
    assert trained.keys() == {"encoder/table", "encoder/color"} == encoder_weights(pipeline.encoder).keys()
    for path, variable in encoder_weights(pipeline.encoder).items():
        np.testing.assert_array_equal(trained[path], ops.convert_to_numpy(variable), err_msg=path)
    assert not pipeline.encoder.trainable and pipeline.generator.trainable_weights
    first = load_file(min((done / "encoder" / "checkpoints").glob("step-*.safetensors")))
    assert any(not np.array_equal(first[name], trained[name]) for name in trained)
    newest = max((done / "checkpoints").glob("step-*.safetensors"))
    assert all(np.array_equal(load_file(newest)[name], trained[name]) for name in trained)


def test_its_losses_and_scores_are_recorded(done: Path) -> None:
    manifest = RunDirectory(done).encoder_stage.read_manifest()
    assert manifest["step"] == STEPS and manifest["scores"]["images"].endswith("(holdout)")
    assert manifest["scores"]["distance of colors"] > 0
    report = (done / "report.html").read_text()
    assert "Encoder" in report and "distance of colors" in report and "reconstructions" not in report
    assert (done / "encoder" / "metrics.csv").is_file() and (done / "encoder" / "tensorboard").is_dir()


def test_the_encoder_learns_the_colors(tmp_path: Path) -> None:
    """The condition of a caption gives the mean color of its images, which is the closed form of least squares."""
    data = "{name: shapes, size: 16, objects: 1, colors: [red, blue], shapes: [circle], sizes: [large]}"
    fit = "{steps: 400, batch_size: 8, learning_rate: 0.1, warmup_steps: 0, ema: null, log_every: 400}"
    config = configuration(data=data, encoder__fit=fit, sample={"every": 0})
    run(config, tmp_path / "run", stage="encoder", log=lambda text: None)
    assert not (tmp_path / "run" / "model").exists()
    encoder = kgen.open_encoder(tmp_path / "run")
    dataset = kgen.open_dataset(tmp_path / "run")
    captions = dataset.captions("train")
    images = np.stack([dataset.image("train", row) for row in range(len(captions))])
    wanted = {c: (images[[c == other for other in captions]].mean((0, 1, 2)) / 127.5 - 1.0) for c in set(captions)}
    assert len(wanted) > 1
    tokens = {name: ops.convert_to_tensor(array) for name, array in encoder.tokenize(list(wanted)).items()}
    found = ops.convert_to_numpy(ops.matmul(encoder(tokens)["pooled"], encoder.color))
    np.testing.assert_allclose(found, np.stack(list(wanted.values())), atol=0.03)


def test_the_generator_reads_cached_conditions(tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches of its training hold conditions, as for any frozen encoder."""
    seen: list[set[str]] = []
    call = kgen.Pipeline.call

    def watched(self: Any, batch: Any, training: bool = False) -> Any:
        seen.append(set(batch))
        return call(self, batch, training)

    monkeypatch.setattr(kgen.Pipeline, "call", watched)
    RunDirectory(tmp_path / "run").prepare(configuration())
    shutil.copytree(done / "encoder", tmp_path / "run" / "encoder")
    refuse_to_train(monkeypatch)
    run(configuration(), tmp_path / "run", log=lambda text: None)
    assert seen and all("condition" in batch and "tokens" not in batch for batch in seen)


def test_the_encoder_stage_alone_and_then_the_rest(tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(configuration(), tmp_path / "run", stage="encoder")
    assert same(weights(tmp_path / "run"), weights(done))
    refuse_to_train(monkeypatch)
    run(configuration(), tmp_path / "run")
    first, second = (load_file(path / "model" / "weights.safetensors") for path in (tmp_path / "run", done))
    assert same(first, second)


def test_interrupted_and_continued(tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are those of the training that was not interrupted, bit by bit. It trains with noise."""
    from kgen.training.callbacks import SaveCheckpoint

    at_step = SaveCheckpoint.at_step

    def interrupting(self: Any, step: int, logs: Any) -> None:
        at_step(self, step, logs)
        if not self.signals.received:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(SaveCheckpoint, "at_step", interrupting)
        with pytest.raises(RunInterruptedError, match="stopped at the encoder's step 4 of 6"):
            run(configuration(), tmp_path / "run", log=lambda text: None)
    assert RunDirectory(tmp_path / "run").encoder_stage.newest_step == 4
    run(configuration(), tmp_path / "run", log=lambda text: None)
    assert same(weights(tmp_path / "run"), weights(done))
    first, second = (load_file(path / "model" / "weights.safetensors") for path in (tmp_path / "run", done))
    assert same(first, second)


def test_a_decoder_that_reads_the_text_comes_after_its_encoder(tmp_path: Path, logged: list[str]) -> None:
    fit = "{steps: 2, batch_size: 8}"
    config = configuration(decoder="{name: made/codec, fit: " + fit + "}", encoder__fit=fit, fit__steps=2)
    run(config, tmp_path / "run", log=logged.append)
    trained = [text.split(":")[0] for text in logged if "weights to train" in text]
    assert trained[:2] == ["the encoder", "the decoder"], logged
    report = (tmp_path / "run" / "report.html").read_text()
    assert report.index("<h2>Encoder</h2>") < report.index("<h2>Decoder</h2>")


# ---- existing encoders -------------------------------------------------------------------------------------------


def test_restart_keeps_an_encoder_that_would_be_the_same(
    tmp_path: Path, done: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done, tmp_path / "run")
    refuse_to_train(monkeypatch)
    run(configuration(fit__steps=5), tmp_path / "run", restart=True, log=logged.append)
    assert any("the encoder is that of" in text and "has changed" in text for text in logged)
    assert same(weights(tmp_path / "run"), weights(done))
    with pytest.raises(TrainingBegunError):
        run(configuration(), tmp_path / "run", restart=True, stage="encoder", log=logged.append)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoder__dim": 4}, "encoder.dim: 3 there, 4 now"),
        ({"encoder__fit__steps": 5}, "encoder.fit.steps: 6 there, 5 now"),
        ({"data__count": 21}, "data.images"),
    ],
    ids=["option", "fit", "data"],
)
def test_restart_trains_a_changed_encoder_and_prints_why(
    tmp_path: Path, done: Path, logged: list[str], change: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done, tmp_path / "run")
    refuse_to_train(monkeypatch)
    with pytest.raises(TrainingBegunError):
        run(configuration(**change), tmp_path / "run", restart=True, log=logged.append)
    assert any("the encoder is trained again" in text and reason in text for text in logged), logged


def test_imported_from_another_run(tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vocabulary is copied, too, although the captions of this run differ."""
    refuse_to_train(monkeypatch)
    source = Path(shutil.copytree(done, tmp_path / "source"))
    config = configuration(encoder=f"{{from: {source}}}", data__holdout="[red circle]")
    assert config.encoder.options == {"dim": 3}
    run(config, tmp_path / "run", log=lambda text: None)
    assert same(weights(tmp_path / "run"), weights(done))
    assert load(tmp_path / "run").encoder.words == load(done).encoder.words
    shutil.rmtree(source)
    assert RunConfig.load(tmp_path / "run" / "config.yaml") == config
    run(RunConfig.load(tmp_path / "run" / "config.yaml", ["fit.steps=5"]), tmp_path / "run", log=lambda text: None)


def test_another_class_takes_the_same_weights(tmp_path: Path, done: Path) -> None:
    config = configuration(encoder=f"{{name: made/tints, from: {done}}}", sample__prompts="[A LARGE RED CIRCLE]")
    assert config.encoder.options == {"dim": 3}  # those of the run
    run(config, tmp_path / "run", log=lambda text: None)
    first, second = load(tmp_path / "run").encoder, load(done).encoder
    assert isinstance(first, Tints) and not first.trainable
    words = list(second.words[:3])
    made = [e({"id": ops.convert_to_tensor(e.tokenize(texts)["id"])}) for e, texts in ((second, words), (first, words))]
    np.testing.assert_array_equal(*(ops.convert_to_numpy(condition["pooled"]) for condition in made))
    with pytest.raises(ConfigError, match="encoder: encoder 'made/tints' uses the weights of a trained 'Hues': set"):
        configuration(encoder="made/tints")
    with pytest.raises(RunError, match="holds another encoder than the run's: it differs in dim"):
        check(configuration(encoder=f"{{name: made/tints, dim: 4, from: {done}}}"))


def test_missing_encoders_are_refused(tmp_path: Path, done: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run directory"):
        configuration(encoder=f"{{from: {tmp_path}}}")
    untrained = tmp_path / "untrained"
    RunDirectory(untrained).prepare(configuration())
    with pytest.raises(RunError, match="untrained has no trained encoder"):
        check(configuration(encoder=f"{{from: {untrained}}}"))
    with pytest.raises(RunError, match="no trained"):
        kgen.open_encoder(untrained)
    joint = tmp_path / "joint"
    RunDirectory(joint).prepare(configuration(encoder="made/words"))
    with pytest.raises(ConfigError, match="has trained no encoder"):
        configuration(encoder=f"{{from: {joint}}}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"encoder": "made/hues"},
            "encoder 'made/hues' must be trained: set 'fit: {steps: ...}', or 'from: RUN'",
        ),
        (
            {"encoder": "{name: made/words, fit: {steps: 3}}"},
            "encoder.fit: encoder 'made/words' has nothing to train in a stage of its own: leave 'fit' out",
        ),
        ({"encoder__from": "runs/x"}, "an encoder 'from' another run is already trained: leave out one of the two"),
        ({"encoder": "{name: made/tints, fit: {steps: 3}}"}, "set 'from: RUN'"),
        ({"encoder__fit": "{stepps: 3}"}, "encoder.fit.stepps: unknown"),
        ({"encoder__data": "{name: shapess}"}, "shapess"),
        ({"encoder": "{name: made/hues, data: shapes}"}, "must be trained"),
        (
            {"encoder": "[made/words, made/hues]"},
            "encoder: 'made/hues' must be trained in a stage of its own, which joined encoders do not have",
        ),
    ],
)
def test_bad_configurations(change: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        configuration(**change)
    assert message in str(error.value), error.value


def test_changed_images_of_the_encoder_are_refused_or_noted(
    tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done / "encoder", tmp_path / "run" / "encoder")
    data = Shapes(size=16, count=20, holdout=("purple square",))
    stage = EncoderStage(configuration(), RunDirectory(tmp_path / "run"), data, Hues())
    monkeypatch.setattr(Shapes, "fingerprint", lambda self: "other")
    with pytest.raises(RunError, match=r"the images or captions have changed: continue with the changed data"):
        stage.check()
    stage.check(changed_data=True)
    stage.check()


def test_the_encoder_can_have_separate_data(tmp_path: Path) -> None:
    """The images may have another size, and the vocabulary is from the captions of these data."""
    own = configuration(encoder__data="{name: shapes, size: 32, count: 12}", encoder__fit__steps=1, fit__steps=1)
    run(own, tmp_path / "run", log=lambda text: None)
    assert set(load(tmp_path / "run").encoder.words) == set(Shapes(size=32, count=12).captions("train"))


def test_training_starts_from_another_encoder(tmp_path: Path, done: Path) -> None:
    config = configuration(encoder__init=str(done), encoder__fit__frozen="[encoder/table]", seed=3)
    run(config, tmp_path / "run", stage="encoder", log=lambda text: None)
    before, after = weights(done), weights(tmp_path / "run")
    assert np.array_equal(before["encoder/table"], after["encoder/table"])
    assert not np.array_equal(before["encoder/color"], after["encoder/color"])
    noted = RunDirectory(tmp_path / "run").encoder_stage.read_manifest()["init"]
    assert noted["sources"][0]["taken"] == 2 and not noted["fresh"]


def test_settings_without_effect_may_change() -> None:
    before = configuration().dump()
    logging, steps = (configuration(**{f"encoder__fit__{key}": 3}).dump() for key in ("log_every", "steps"))
    assert [change.affects_training for change in changes(before, logging)] == [False]
    assert [change.allowed for change in changes(before, steps)] == [False]


# ---- checks before the training -----------------------------------------------------------------------------------


def test_the_encoder_stage_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    compute_losses = Hues.compute_losses

    def late(self: Any, *arguments: Any, **options: Any) -> Any:
        self.late = self.add_weight(shape=(), name="late")
        return compute_losses(self, *arguments, **options)

    def averaged(self: Any, *arguments: Any, **options: Any) -> Any:
        return {"loss": ops.mean(compute_losses(self, *arguments, **options)["loss"])}

    for name, value, message in (
        ("compute_losses", averaged, "compute_losses returned 'loss' of shape () for 2 examples"),
        ("compute_losses", late, "creates weights|add"),
        ("scores", lambda *arguments: {"distance": None}, "scores must return numbers by name"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Hues, name, value)
            with pytest.raises(PluginError, match=message.replace("()", r"\(\)")):
                check(configuration())


def test_trying_does_not_change_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its weights nor the state of its noise change."""
    before: list[np.ndarray] = []

    class Watched(EncoderModel):
        def __init__(self, encoder: Any, *arguments: Any) -> None:
            super().__init__(encoder, *arguments)
            before.extend(np.array(ops.convert_to_numpy(variable)) for variable in encoder.variables)

    monkeypatch.setattr("kgen.runs.preflight.EncoderModel", Watched)
    after = check(configuration()).encoder.variables
    assert len(before) == len(after) == 3
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, ops.convert_to_numpy(other))


def test_python_pipelines_do_not_train_it() -> None:
    encoder = Hues()
    encoder.adapt(["a", "b"])
    pipeline = kgen.assemble(encoder=encoder, generator="made/painter", image_space=(8, 8, 3))
    assert isinstance(pipeline.generator, Painter) and not encoder.trainable
    trained = EncoderModel(_adapted(Hues()), kgen.Space("continuous", (8, 8, 3)))
    trained.compile("adam")
    batch = {"image": np.zeros((4, 8, 8, 3), np.uint8), "tokens": trained.encoder.tokenize(["a", "b", "a", "b"])}
    history = trained.fit(batch, epochs=2, batch_size=4, verbose=0).history["loss"]
    assert history[1] < history[0]
    with pytest.raises(ConfigError, match="Hues is frozen: there is nothing to train"):
        EncoderModel(encoder, kgen.Space("continuous", (8, 8, 3)))
    assert _adapted(Words()).trainable


class Late(Words):
    """A frozen encoder that makes a layer when it is built, as transformers do."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trainable = False

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.late = keras.layers.Dense(2)
        self.late.build((None, self.dim))


@pytest.mark.backends
def test_layers_that_a_frozen_encoder_makes_late_are_frozen() -> None:
    encoder = _adapted(Late())
    pipeline = kgen.assemble(encoder=encoder, generator="made/painter", image_space=(8, 8, 3))
    trained = {id(variable) for variable in pipeline.trainable_variables}
    assert trained and len(encoder.variables) == 3
    assert not trained & {id(variable) for variable in encoder.variables}
    assert not any(weight.trainable for weight in encoder.weights)


def _adapted(encoder: Any) -> Any:
    encoder.adapt(["a", "b"])
    return encoder


def test_the_manifest_names_its_version(done: Path) -> None:
    manifest = json.loads((done / "encoder" / "manifest.json").read_text())
    assert manifest["depends_on"]["version"]["kgen-plugin-made"] == "0.5"
