"""The pipeline: per-example losses, one place that reduces them, sampling by prompt and seed alone."""

from __future__ import annotations

import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from gaussian import Gaussian
from keras import ops
from parts import Painter, Patterns, Words
from scipy import stats

import kgen
from kgen.backend import devices
from kgen.contracts.identity import Identity
from kgen.errors import GuidanceWarning
from kgen.training.averages import averaged_weights, fixed_noise
from kgen.training.optimizers.averaging import averaging
from kgen.training.optimizers.of_keras import AdamW
from kgen.training.optimizers.warmup import WarmUp

AveragingAdamW = averaging(AdamW)


@pytest.fixture
def dataset() -> Patterns:
    return Patterns()


def make(dataset: Patterns, dropout: float = 0.0, **options: object) -> kgen.Pipeline:
    keras.utils.set_random_seed(0)
    encoder = Words()
    encoder.adapt(dataset.captions("train"))
    painter = Painter(dataset.image_space, encoder.condition_space, **options)
    return kgen.assemble(encoder=encoder, generator=painter, dataset=dataset, condition_dropout=dropout)


def arrays(dataset: Patterns) -> tuple[np.ndarray, list[str]]:
    captions = dataset.captions("train")
    return np.stack([dataset.image("train", i) for i in range(len(captions))]), captions


@pytest.mark.backends
def test_the_loss_is_the_mean_of_the_generators(dataset: Patterns) -> None:
    pipeline = make(dataset, noise=0.0)
    batch = pipeline.inputs(*arrays(dataset))
    x = batch["image"].astype("float64") / 127.5 - 1.0
    mean = ops.convert_to_numpy(pipeline.generator.mean(pipeline.encoder(batch["tokens"])))
    pipeline.compile("sgd")
    logs = pipeline.evaluate(batch, batch_size=len(x), verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(((x - mean) ** 2).mean(), rel=1e-5)
    assert logs["noise"] == 0.0


@pytest.mark.backends
def test_floats_and_bytes_are_the_same_images(dataset: Patterns) -> None:
    pipeline = make(dataset, noise=0.0)
    images, captions = arrays(dataset)
    as_bytes = pipeline(pipeline.inputs(images, captions))["loss"]
    as_floats = pipeline(pipeline.inputs((images / 127.5 - 1.0).astype("float32"), captions))["loss"]
    np.testing.assert_allclose(ops.convert_to_numpy(as_bytes), ops.convert_to_numpy(as_floats), rtol=1e-5)


@pytest.mark.backends
def test_ready_latents_and_conditions_are_used_as_they_are(dataset: Patterns) -> None:
    pipeline = make(dataset, noise=0.0)
    batch = pipeline.inputs(*arrays(dataset))
    ready = {"latent": batch["image"].astype("float32") / 127.5 - 1.0, "condition": pipeline.encoder(batch["tokens"])}
    np.testing.assert_allclose(
        ops.convert_to_numpy(pipeline(ready)["loss"]), ops.convert_to_numpy(pipeline(batch)["loss"]), rtol=1e-5
    )


@pytest.mark.backends
def test_conditions_are_dropped_at_the_given_rate_only_in_training(dataset: Patterns) -> None:
    pipeline = make(dataset, dropout=0.3)
    condition = pipeline.encoder(pipeline.encoder.tokenize(["pattern 1"] * 4000))
    null = ops.convert_to_numpy(pipeline.null_condition()["pooled"])
    dropped = ops.convert_to_numpy(pipeline._drop(condition)["pooled"])
    rate = (dropped == null).all(axis=1).mean()
    assert rate == pytest.approx(0.3, abs=0.03)
    kept = dropped[~(dropped == null).all(axis=1)]
    np.testing.assert_array_equal(kept, np.repeat(ops.convert_to_numpy(condition["pooled"])[:1], len(kept), axis=0))


@pytest.mark.backends
def test_an_image_depends_on_prompt_and_seed_alone(dataset: Patterns) -> None:
    pipeline = make(dataset)
    names = [f"pattern {i}" for i in range(8)]
    together = pipeline.generate(names, seed=3, spread=0.5)
    alone = pipeline.generate("pattern 5", seed=3, spread=0.5)
    np.testing.assert_array_equal(together[5], alone[0])
    small_batches = pipeline.generate(names, seed=3, batch_size=3, spread=0.5)
    np.testing.assert_array_equal(together, small_batches)
    more = pipeline.generate(["pattern 1", "pattern 5"], n=2, seed=3, spread=0.5)
    np.testing.assert_array_equal(more[2], alone[0])
    assert (more[2] != more[3]).any()
    assert (pipeline.generate("pattern 5", seed=4, spread=0.5) != alone).any()


@pytest.mark.backends
def test_prompts_have_separate_noise_unless_it_is_shared(dataset: Patterns) -> None:
    """A model that ignores its prompt: what differs is the noise."""
    pipeline = make(dataset)
    kernel = pipeline.generator.net.layers[-1].kernel
    kernel.assign(np.zeros(kernel.shape))
    names = ["pattern 1", "pattern 2", "pattern 1"]
    first, second, again = pipeline.generate(names, spread=0.5)
    assert (first != second).any() and (first != again).any()
    np.testing.assert_array_equal(pipeline.generate("pattern 1", n=2, spread=0.5), [first, again])
    shared = pipeline.generate(names, spread=0.5, shared_noise=True)
    assert (shared == shared[0]).all()


class NoisyDecoder(Identity):
    """Adds normal noise to what it is given."""

    def noise_spec(self, **options: object) -> dict[str, kgen.NoiseSpec]:
        return {"grain": kgen.NoiseSpec("normal", self.image_space.shape)}

    def decode(self, latent, condition, noise, *, grain: float = 0.1):
        return latent + grain * noise["grain"]


@pytest.mark.backends
def test_the_decoders_noise_is_that_of_prompt_and_seed(dataset: Patterns) -> None:
    encoder = Words()
    encoder.adapt(dataset.captions("train"))
    painter = Painter(dataset.image_space, encoder.condition_space)
    decoder = NoisyDecoder(dataset.image_space)
    pipeline = kgen.assemble(encoder=encoder, generator=painter, decoder=decoder)
    draw = {"spread": 0.0, "decoder": {"grain": 0.5}}
    one, other = pipeline.generate(["left", "right"], seed=3, **draw)  # two unknown words: the same condition
    assert (one != other).any()
    way = pipeline.interpolate("left", count=3, seeds=(3, 4), **draw)
    for image, seed in ((way[0], 3), (way[-1], 4)):
        assert np.abs(pipeline.generate("left", seed=seed, **draw)[0].astype(int) - image).max() <= 1


def test_a_seed_per_prompt(dataset: Patterns) -> None:
    pipeline = make(dataset)
    made = pipeline.generate(["pattern 1"] * 3, seed=[1, 2, 3], n=2, spread=0.5)
    for index, seed in enumerate((1, 2, 3)):
        alone = pipeline.generate("pattern 1", seed=np.int64(seed), n=2, spread=0.5)
        np.testing.assert_array_equal(made[2 * index : 2 * index + 2], alone)
    assert len({image.tobytes() for image in made}) == 6


@pytest.mark.parametrize("seed", [None, -1, 2**31, 1.0, True, "1", [1], [1, None], [[1, 2]], [1, 2, 3]])
def test_invalid_seeds_are_refused(dataset: Patterns, seed: object) -> None:
    with pytest.raises(kgen.ConfigError, match="seed"):
        make(dataset).generate(["pattern 1", "pattern 2"], seed=seed)


@pytest.mark.parametrize("prompts", [[None], [3], ["a", b"b"], "half \ud83d", ["half \ude00"]])
def test_invalid_prompts_are_refused(dataset: Patterns, prompts: object) -> None:
    with pytest.raises(kgen.ConfigError, match="text"):
        make(dataset).generate(prompts)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the others have one way to run")
def test_on_a_cpu_xla_compiles_loops_alone(dataset: Patterns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_tensorflow_gpu", lambda: False)
    monkeypatch.setattr(Painter, "num_sampling_steps", lambda self, spread=0.1: 1 if spread < 1 else 2)
    pipeline = make(dataset)
    for spread in (0.5, 1.0):
        pipeline.generate("pattern 5", spread=spread)
    assert [sampler.program.jit_compile for sampler in pipeline.programs] == [False, True]
    pipeline.compile("sgd")
    assert pipeline.jit_compile is False
    pipeline.compile("sgd", jit_compile=True)
    assert pipeline.jit_compile is True


@pytest.mark.parametrize(("steps", "counted"), [({}, 1), ({"steps": 3}, 3)])
def test_the_number_of_steps_may_be_left_open(steps: dict[str, int], counted: int) -> None:
    class Open(Painter):
        def generate(self, condition, null_condition, noise, *, steps: kgen.Steps | None = None):
            return super().generate(condition, null_condition, noise)

    generator = Open(kgen.Space("continuous", (8, 8, 3)), kgen.ConditionSpace(1, 8))
    assert generator.num_sampling_steps(**steps) == counted


def test_options_of_generate_are_checked(dataset: Patterns) -> None:
    pipeline = make(dataset)
    with pytest.raises(kgen.ConfigError, match=r"stps: unknown key .* takes: spread"):
        pipeline.generate("x", stps=3)
    with pytest.raises(kgen.ConfigError, match="spread"):
        pipeline.generate("x", spread="wide")
    with pytest.raises(kgen.ConfigError, match=r"guidance: unknown key .Painter.generate takes: spread"):
        pipeline.generate("x", guidance=3.0)
    with pytest.raises(kgen.ConfigError, match="Identity"):
        pipeline.generate("x", decoder={"steps": 3})


def test_inputs_are_checked(dataset: Patterns) -> None:
    pipeline = make(dataset)
    images, captions = arrays(dataset)
    with pytest.raises(kgen.DataError, match="23 images, but 22 captions"):
        pipeline.inputs(images, captions[:-1])
    with pytest.raises(kgen.DataError, match="8, 8, 3"):
        pipeline.inputs(images[:, :4], captions)
    with pytest.raises(kgen.DataError, match="one text for all"):
        pipeline.inputs(images, "a pattern")


@pytest.mark.backends
def test_save_and_load_give_the_same_images(dataset: Patterns, tmp_path) -> None:
    pipeline = make(dataset)
    pipeline.compile(AveragingAdamW(0.01))
    pipeline.fit(pipeline.inputs(*arrays(dataset)), epochs=2, batch_size=8, verbose=0)
    pipeline.save(tmp_path / "model")
    loaded = kgen.load(tmp_path / "model", custom=[Words, Painter])
    np.testing.assert_array_equal(loaded.generate("pattern 2"), pipeline.generate("pattern 2"))
    assert loaded.generator.config == pipeline.generator.config
    with pytest.raises(kgen.ConfigError, match="custom"):
        kgen.load(tmp_path / "model")
    with pytest.raises(kgen.RunError, match="no trained pipeline"):
        kgen.load(tmp_path / "elsewhere")


def test_saving_replaces_a_saved_pipeline_and_nothing_else(
    dataset: Patterns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, model = make(dataset), tmp_path / "model"
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for path in (model, model, tmp_path / "empty", tmp_path / "link", str(model) + "/"):
        pipeline.save(path)
        kgen.load(path, custom=[Words, Painter])
    assert (tmp_path / "link").is_symlink()
    assert (model / "weights.safetensors").stat().st_mode == (model / "pipeline.yaml").stat().st_mode

    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    (precious / "pipeline.yaml").write_text("stages: [of, another, program]")
    (model / "encoder" / "notes.txt").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    for path, message in (
        ("precious", r"precious holds files that kgen did not write there \(pipeline.yaml, thesis.txt\)"),
        (model, r"model holds files that kgen did not write there \(encoder/notes.txt\)"),
        ("file", "file is a file, but kgen has to write a folder"),
        ("dangling", "dangling is a file, but kgen has to write a folder"),
        (".", "is or contains the current folder"),
        ("", "is or contains the current folder"),
        ("..", "is or contains the current folder"),
        ("m.keras", r"not in a file of Keras such as m.keras: call save\('m'\)"),
        ("/dev/null", "is a file, but kgen has to write a folder"),
    ):
        with pytest.raises(kgen.ConfigError, match=message):
            pipeline.save(path)
    with pytest.raises(OSError, match="file/sub"):
        pipeline.save("file/sub/model")
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_damaged_and_foreign_weights_are_refused(dataset: Patterns, tmp_path) -> None:
    make(dataset).save(tmp_path / "model")
    weights = tmp_path / "model" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(kgen.RunError, match="cannot be read"):
        kgen.load(tmp_path / "model", custom=[Words, Painter])
    make(dataset, width=32).save(tmp_path / "wide")
    weights.write_bytes((tmp_path / "wide" / "weights.safetensors").read_bytes())
    with pytest.raises(kgen.RunError, match="shape"):
        kgen.load(tmp_path / "model", custom=[Words, Painter])


def test_components_that_do_not_fit_are_refused_before_training(dataset: Patterns) -> None:
    encoder = Words()
    encoder.adapt(["a"])
    small = kgen.Space("continuous", (4, 4, 3))
    with pytest.raises(kgen.SpaceError, match=r"Painter makes latents 4x4x3.*Identity reads 8x8x3"):
        kgen.assemble(encoder=encoder, generator=Painter(small, encoder.condition_space), dataset=dataset)
    wide = kgen.ConditionSpace(1, 99)
    with pytest.raises(kgen.SpaceError, match="Words"):
        kgen.assemble(encoder=encoder, generator=Painter(dataset.image_space, wide), dataset=dataset)


@pytest.mark.backends
def test_the_average_follows_the_formula(dataset: Patterns) -> None:
    pipeline = make(dataset, noise=0.0)
    optimizer = AveragingAdamW(0.05, average=0.5, clip_norm=None)
    pipeline.compile(optimizer)
    batch = pipeline.inputs(*arrays(dataset))
    weight = pipeline.trainable_variables[0]
    expected = np.array(weight.numpy())
    for step in range(15):
        pipeline.train_on_batch(batch)
        decay = min(0.5, step / (step + 10))
        expected = decay * expected + (1 - decay) * np.array(weight.numpy())
    np.testing.assert_allclose(optimizer.averages[0].numpy(), expected, rtol=1e-4, atol=1e-6)
    raw = np.array(weight.numpy())
    with averaged_weights(pipeline):
        np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(weight.numpy(), raw)


@pytest.mark.backends
def test_gradients_are_clipped_to_the_global_norm() -> None:
    weights = [keras.Variable(np.zeros(3, "float32")), keras.Variable(np.zeros((2, 2), "float32"))]
    grads = [np.array([3.0, 0, 0], "float32"), np.array([[4.0, 0], [0, 0]], "float32")]  # norm 5
    plain = keras.optimizers.AdamW(0.1, weight_decay=0.0, epsilon=1.0)
    clipped = AveragingAdamW(0.1, weight_decay=0.0, clip_norm=1.0, epsilon=1.0, average=None)
    others = [keras.Variable(np.array(w.numpy())) for w in weights]
    plain.apply([ops.convert_to_tensor(g / 5.0) for g in grads], others)
    clipped.apply([ops.convert_to_tensor(g) for g in grads], weights)
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5)


@pytest.mark.backends
def test_vectors_are_not_decayed() -> None:
    vector, matrix = keras.Variable(np.ones(3, "float32")), keras.Variable(np.ones((3, 3), "float32"))
    optimizer = AveragingAdamW(0.1, weight_decay=0.5, average=None)
    optimizer.apply([ops.zeros(3), ops.zeros((3, 3))], [vector, matrix])
    np.testing.assert_array_equal(vector.numpy(), 1.0)
    np.testing.assert_allclose(matrix.numpy(), 0.95, rtol=1e-6)


@pytest.mark.backends
def test_a_weight_can_take_a_share_of_the_learning_rate() -> None:
    fast, slow = (keras.Variable(np.zeros((2, 2), "float32")) for _ in range(2))
    slow.learning_rate_share = 0.25
    optimizer = AveragingAdamW(0.1, weight_decay=0.0, average=0.5)
    for _ in range(2):
        optimizer.apply([ops.ones((2, 2)), ops.ones((2, 2))], [fast, slow])
    np.testing.assert_allclose(fast.numpy(), -0.2, rtol=1e-4)
    np.testing.assert_allclose(slow.numpy(), -0.05, rtol=1e-4)


@pytest.mark.backends
def test_warm_up_and_cosine() -> None:
    rate = WarmUp(1.0, 10, 110)
    values = [float(rate(step)) for step in (0, 4, 9, 10, 60, 110)]
    np.testing.assert_allclose(values, [0.1, 0.5, 1.0, 1.0, 0.5, 0.0], atol=1e-6)
    assert float(WarmUp(1.0, 0, None)(1000)) == 1.0


@pytest.mark.backends
def test_fixed_noise_makes_losses_comparable_and_changes_nothing(dataset: Patterns) -> None:
    pipeline = make(dataset, noise=0.5)
    batch = pipeline.inputs(*arrays(dataset))

    def loss() -> float:
        return float(ops.mean(pipeline(batch)["loss"]))

    before = np.array(pipeline.generator.seed_generator.state.numpy())
    with fixed_noise(pipeline):
        first = loss()
    with fixed_noise(pipeline):
        second = loss()
    assert first == second
    np.testing.assert_array_equal(pipeline.generator.seed_generator.state.numpy(), before)
    assert loss() != first


@pytest.mark.backends
def test_mixed_precision_keeps_weights_and_losses_in_float32(dataset: Patterns) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        pipeline = make(dataset)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {keras.backend.standardize_dtype(v.dtype) for v in pipeline.trainable_variables} == {"float32"}
    pipeline.compile(AveragingAdamW(0.01))
    history = pipeline.fit(pipeline.inputs(*arrays(dataset)), epochs=30, batch_size=23, verbose=0).history["loss"]
    assert history[-1] < 0.9 * history[0]
    assert pipeline.generate("pattern 1").dtype == np.uint8


@pytest.mark.backends
@pytest.mark.parametrize("part", ["encoder", "generator"])
def test_weights_that_are_not_finite_are_an_error(dataset: Patterns, part: str) -> None:
    pipeline = make(dataset)
    weight = getattr(pipeline, part).weights[0]
    values = np.array(ops.convert_to_numpy(weight))
    values.flat[-1] = np.nan  # of a caption whose image is not generated
    weight.assign(values)
    with pytest.raises(kgen.RunError, match=f"weights of {part}.*NaN"):
        pipeline.generate("pattern 1")


@pytest.mark.backends
def test_images_that_are_not_finite_are_an_error(dataset: Patterns) -> None:
    with pytest.raises(kgen.RunError, match="Painter and Identity generated images that are not finite"):
        make(dataset).generate("pattern 1", spread=float("inf"))


class Guided(Painter):
    """Guidance extrapolates from the mean of the null condition to that of the condition."""

    def generate(self, condition, null_condition, noise, *, guidance: kgen.Guidance = 1.0):
        return self.mean(null_condition) + guidance * (self.mean(condition) - self.mean(null_condition))


def guided(dataset: Patterns, dropout: float) -> kgen.Pipeline:
    encoder = Words()
    encoder.adapt(dataset.captions("train"))
    generator = Guided(dataset.image_space, encoder.condition_space)
    return kgen.assemble(encoder=encoder, generator=generator, dataset=dataset, condition_dropout=dropout)


@pytest.mark.backends
def test_a_negative_prompt_stands_for_the_empty_text(dataset: Patterns) -> None:
    pipeline = guided(dataset, 0.1)
    made = pipeline.generate("pattern 1", negative_prompt="pattern 2", guidance=0.0)
    np.testing.assert_array_equal(made, pipeline.generate("pattern 2"))
    np.testing.assert_array_equal(
        pipeline.generate("pattern 1", guidance=2.0), pipeline.generate("pattern 1", negative_prompt="", guidance=2.0)
    )
    with pytest.raises(kgen.ConfigError, match="negative_prompt has an effect only with guidance"):
        pipeline.generate("pattern 1", negative_prompt="pattern 2")


def test_guidance_without_dropped_conditions_is_warned_of(dataset: Patterns) -> None:
    with pytest.warns(GuidanceWarning, match="guidance 4 compares.*condition_dropout 0"):
        guided(dataset, 0.0).generate("pattern 1", guidance=4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuidanceWarning)
        guided(dataset, 0.0).generate("pattern 1", guidance=1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "n must be a whole number, 1 or more, not 0"),
        ({"n": 1.5}, "n must be"),
        ({"n": 99999999999999999999}, r"99,999,999,999,999,999,999 images of 8x8x3.* need [0-9,.]+ GiB of memory"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_numbers_of_images_are_checked_before_memory_is_taken(
    dataset: Patterns, given: dict[str, float], message: str
) -> None:
    with pytest.raises(kgen.ConfigError, match=message):
        make(dataset).generate("pattern 1", **given)


def test_inputs_that_assemble_cannot_use_are_refused_in_one_message(dataset: Patterns) -> None:
    encoder = Words()
    encoder.adapt(["a"])
    parts = {"encoder": encoder, "generator": Painter(dataset.image_space, encoder.condition_space)}
    assert kgen.assemble(**parts, image_space=(8, 8, 3)).decoder.image_space == dataset.image_space
    for wrong, message in (
        ({"image_space": (8, 8)}, "image_space must be"),
        ({"image_space": 8}, "image_space must be"),
        ({"dataset": ["shapes"]}, "dataset: give the name"),
        ({"encoder": Words}, "encoder: .* not the class Words"),
        ({"generator": None}, "generator: give the name"),
        ({"decoder": 3}, "decoder: give the name"),
        ({"captions": "a text"}, "captions must be a list"),
        ({"condition_dropout": None}, "condition_dropout must be"),
        ({"condition_dropout": 1.0}, "condition_dropout must be"),
    ):
        with pytest.raises(kgen.ConfigError, match=message):
            kgen.assemble(**{**parts, "image_space": dataset.image_space, **wrong})


@pytest.mark.backends
def test_likelihood_of_eight_bit_images(dataset: Patterns) -> None:
    encoder = Words()
    encoder.adapt(dataset.captions("train"))
    pipeline = kgen.assemble(
        encoder=encoder, generator=Gaussian(dataset.image_space, encoder.condition_space), dataset=dataset
    )
    images, captions = arrays(dataset)
    nats = pipeline.log_likelihood(images, captions, batch_size=9)  # batches that do not divide the count
    condition = encoder(encoder.tokenize(captions))
    mean, scale = map(ops.convert_to_numpy, pipeline.generator.normal(condition))
    density = stats.norm.logpdf(images / 127.5 - 1.0, mean, scale).sum((1, 2, 3))
    size = dataset.image_space.size
    np.testing.assert_allclose(nats, density + size * np.log(2 / 255), rtol=1e-4)
    assert kgen.bits_per_dimension(size * np.log(1 / 256), size) == pytest.approx(8.0)


def test_a_generator_without_likelihood_is_refused(dataset: Patterns) -> None:
    with pytest.raises(kgen.ConfigError, match="Painter has no likelihood"):
        make(dataset).log_likelihood(*arrays(dataset))


@pytest.mark.backends
def test_interpolation_begins_and_ends_with_the_images_of_the_seeds(dataset: Patterns) -> None:
    pipeline = make(dataset)
    prompt = dataset.captions("train")[0]
    way = pipeline.interpolate(prompt, count=5, seeds=(3, 4), spread=0.5)
    for image, seed in ((way[0], 3), (way[-1], 4)):
        alone = pipeline.generate(prompt, seed=seed, spread=0.5)[0]
        assert np.abs(alone.astype(int) - image).max() <= 1
    shared = pipeline.interpolate(prompt, count=2, seeds=(3, 4), shared_noise=True, spread=0.5)
    alone = pipeline.generate(prompt, seed=4, shared_noise=True, spread=0.5)[0]
    assert (shared[0] != way[0]).any() and np.abs(alone.astype(int) - shared[-1]).max() <= 1
    with pytest.raises(kgen.ConfigError, match="2 or more, not 1"):
        pipeline.interpolate(prompt, count=1)
    steps = np.abs(np.diff(way.astype(float), axis=0)).mean((1, 2, 3))
    assert steps.max() < 0.6 * np.abs(way[0].astype(float) - way[-1]).mean()
