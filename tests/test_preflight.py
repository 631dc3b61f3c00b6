"""What would fail after the training is found before it: by `check`, and when a run starts."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml
from command_line import GOOD, TOY
from keras import ops
from made_plugins import installed

from kgen import Steps
from kgen.config import RunConfig
from kgen.errors import KgenError
from kgen.runs.run import check, run

pytestmark = pytest.mark.portable

SHAPES = """\
data: {name: shapes, size: 16, count: 12, validation: 2, jitter: 0.03, holdout: [purple square]}
encoder: {name: text/bag, dim: 8}
generator: {name: diffusion/diffusion, network: {kind: dit, patch: 4, width: 8, depth: 1, heads: 2}}
fit: {steps: 4, batch_size: 4}
sample: {options: {steps: 500}}
evaluate: {metrics: [attributes], likelihood: {images: 4}}
"""

STAGED = """\
data: {name: shapes, size: 16, count: 12}
encoder: {name: text/bag, dim: 8}
generator: toy/means
decoder:
  name: codecs/kl-autoencoder
  channels: 2
  network: {width: 4, multipliers: [1], patch: 2, attention: false}
  fit: {steps: 2, batch_size: 4}
fit: {steps: 2, batch_size: 4}
sample: {options: {steps: 1}}
"""


@pytest.fixture(scope="module", autouse=True)
def toy() -> Iterator[None]:
    with installed(TOY):
        yield


def configuration(text: str = GOOD, **changes: Any) -> RunConfig:
    return RunConfig.from_dict(
        yaml.safe_load(text), [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    )


def refusal(config: RunConfig) -> str:
    with pytest.raises(KgenError) as error:
        check(config)
    return str(error.value)


# ---- components that return something wrong ----------------------------------------------------------------------


def boom(self: Any, *arguments: Any, **options: Any) -> Any:
    raise IndexError("boom in mine")


def losses(change: Callable[[Any], Any], name: str = "loss") -> Callable[..., Any]:
    def compute_losses(self: Any, x: Any, condition: Any, training: bool) -> Any:
        mean = ops.cast(self.predict_mean(condition), "float32")
        loss = ops.mean(ops.square(x - mean), axis=(1, 2, 3))
        return {"loss": loss, name: change(loss)}

    return compute_losses


def images(change: Callable[[Any], Any]) -> Callable[..., Any]:
    def generate(self: Any, condition: Any, null_condition: Any, noise: Any, *, steps: Steps = 1) -> Any:
        return change(self.predict_mean(condition))

    return generate


MEANS = "generator 'toy/means' of kgen-plugin-toy 1.2"

WRONG: dict[str, tuple[str, str, Any, str]] = {
    "15x16": ("Means", "generate", images(lambda x: x[:, :-1]), f"{MEANS}: generate returned shape (2, 7, 8, 3)"),
    "one image": ("Means", "generate", images(lambda x: x[:1]), f"{MEANS}: generate returned shape (1, 8, 8, 3)"),
    "nan": ("Means", "generate", images(lambda x: x * np.nan), f"{MEANS}: generate returned something that is not fin"),
    "int": ("Means", "generate", images(lambda x: ops.cast(x, "int32")), f"{MEANS}: generate returned type int32"),
    "crash": ("Means", "generate", boom, "IndexError: boom in mine"),
    "scalar": ("Means", "compute_losses", losses(ops.mean), f"{MEANS}: compute_losses returned 'loss' of shape () for"),
    "half": (
        "Means",
        "compute_losses",
        losses(lambda x: ops.cast(x, "float16"), "other"),
        f"{MEANS}: compute_losses returned 'other' of type float16",
    ),
    "inf": ("Means", "compute_losses", losses(lambda x: x / 0.0), f"{MEANS}: compute_losses returned a 'loss' that is"),
    "comma": ("Means", "compute_losses", losses(lambda x: x, "a,b"), f"{MEANS}: compute_losses returned 'a,b': a name"),
    "score": (
        "Brightness",
        "update",
        boom,
        "metric 'toy/brightness' of kgen-plugin-toy 1.2 failed",
    ),
    "no metric": ("Brightness", "__init__", boom, "metric 'toy/brightness' of kgen-plugin-toy 1.2 failed"),
    "no number": (
        "Brightness",
        "compute",
        lambda *arguments: {"mean": "bright"},
        "metric 'toy/brightness' of kgen-plugin-toy 1.2: compute must return numbers by name",
    ),
    "headline": (
        "Brightness",
        "headline",
        "other",
        "metric 'toy/brightness' of kgen-plugin-toy 1.2: its headline 'other' is not one of ['mean']",
    ),
    "images": (
        "Squares",
        "image",
        lambda *arguments: np.zeros((8, 7, 3), np.uint8),
        "dataset 'toy/squares' of kgen-plugin-toy 1.2: image 0 of split 'train' is uint8 (8, 7, 3)",
    ),
    "words": ("Letters", "save_assets", boom, "encoder 'toy/letters' of kgen-plugin-toy 1.2 failed"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_errors_of_components_are_found_and_named(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kgen_toy.parts

    cls, name, value, message = WRONG[wrong]
    monkeypatch.setattr(getattr(kgen_toy.parts, cls), name, value, raising=False)
    assert message in refusal(configuration())
    if wrong in ("15x16", "score"):  # a run finds it as well, and leaves nothing behind
        with pytest.raises(KgenError) as error:
            run(configuration(), tmp_path / "run", log=lambda text: None)
        assert message in str(error.value) and not (tmp_path / "run").exists()


def test_a_run_that_cannot_start_leaves_the_older_one_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kgen_toy.parts import Means

    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(configuration().to_yaml())
    monkeypatch.setattr(Means, "generate", boom)
    with pytest.raises(KgenError, match="boom in mine"):
        run(configuration(seed=1), tmp_path / "run", restart=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert "seed: 0" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.backends
def test_losses_under_mixed_precision_must_be_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen_toy.parts import Means

    monkeypatch.setattr(Means, "compute_losses", losses(lambda x: ops.cast(x, "bfloat16")))
    assert "'loss' of type bfloat16: losses must be float32" in refusal(configuration(precision="mixed_bfloat16"))
    assert keras.config.dtype_policy().name == "float32"  # as it was


# ---- configurations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": "squares", "evaluate__metrics": "[attributes]"},
            "'attributes' needs the dataset Shapes, not Squares",
        ),
        ({"evaluate__metrics": "[{name: retrieval, k: [0]}]"}, "k must be positive numbers, not (0,)"),
        ({"evaluate__metrics": "[retrieval, retrieval]"}, "'kgen/retrieval' is given twice"),
        ({"encoder": "text/class"}, "white"),
    ],
    ids=["dataset", "k", "twice", "class"],
)
def test_configurations_that_fail_after_the_training(changes: dict[str, str], message: str) -> None:
    assert message in refusal(configuration(**changes))


def test_a_metric_gets_as_many_images_as_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen_toy.parts import Brightness

    counts: list[int] = []
    update = Brightness.update
    monkeypatch.setattr(Brightness, "min_images", 5)
    monkeypatch.setattr(
        Brightness, "update", lambda self, batch: counts.append(len(batch.images)) or update(self, batch)
    )
    check(configuration(evaluate__images=5))
    assert counts and all(count >= 5 for count in counts)


def test_everything_is_tried_in_a_few_seconds() -> None:
    """Although 500 steps of sampling and 1,000 of the likelihood are asked for."""
    config, steps = configuration(SHAPES), []
    from kgen_plugin_diffusion.generator import Diffusion

    with pytest.MonkeyPatch.context() as patch:
        for name in ("generate", "log_likelihood"):
            method = getattr(Diffusion, name)

            @functools.wraps(method)  # its signature holds the options
            def counted(self: Any, *arguments: Any, method: Any = method, **options: Any) -> Any:
                steps.append(options.get("steps"))
                return method(self, *arguments, **options)

            patch.setattr(Diffusion, name, counted)
        check(config)
        began = time.process_time()
        check(config)
    assert steps == [2, 2] * 2
    assert time.process_time() - began < 10


def test_a_sampler_that_refuses_few_steps_gets_the_configured_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen_toy.parts import Means

    seen = []

    def generate(self: Any, condition: Any, null_condition: Any, noise: Any, *, steps: Steps = 7) -> Any:
        seen.append(steps)
        if steps < 4:
            raise ValueError("too few")
        return self.predict_mean(condition)

    monkeypatch.setattr(Means, "generate", generate)
    check(configuration())
    assert seen == [2, 7]


def test_the_decoder_stage_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen_plugin_codecs.kl import KLAutoencoder

    kl = "decoder 'codecs/kl-autoencoder' of kgen-plugin-codecs"
    check(configuration(STAGED))
    compute_losses = KLAutoencoder.compute_losses
    for name, value, message in (
        (
            "compute_losses",
            lambda self, *a, **k: {n: ops.mean(v) for n, v in compute_losses(self, *a, **k).items()},
            "compute_losses returned 'loss' of shape () for 2 examples",
        ),
        ("calibrate", boom, "boom in mine"),
        ("scores", lambda *arguments: {"deviation": None}, "scores must return numbers by name"),
        (
            "encode",
            lambda self, x: x[:, ::4, ::4, :2],
            "encode returned shape (2, 4, 4, 2), but it must be (2, 8, 8, 2)",
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(KLAutoencoder, name, value)
            found = refusal(configuration(STAGED))
        assert kl in found and message in found, found


def test_a_decoder_without_losses_is_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen.contracts.identity import Identity

    monkeypatch.setattr(Identity, "calibrate", boom)
    found = refusal(configuration())
    assert "decoder 'kgen/identity' of kgen" in found and "boom in mine" in found
