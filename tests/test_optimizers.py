"""Every optimizer of Keras by name, and what kgen adds to each: clipping, an average, shares of the learning rate."""

from __future__ import annotations

import contextlib
import inspect
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from parts import Patterns
from test_training import run

from kgen.config import ComponentConfig, FitConfig
from kgen.errors import ConfigError, PluginError
from kgen.options import options
from kgen.plugins.discovery import registry
from kgen.testing.replicas import copies, mirrored
from kgen.training.fit import compile_model
from kgen.training.optimizers.averaging import averaging, make_optimizer
from kgen.training.trial import try_fit

NAMES = sorted(component.name for component in registry().of_kind("optimizer"))
OF_KGEN = {
    *("learning_rate", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "ema_momentum"),
    *("ema_overwrite_frequency", "loss_scale_factor", "gradient_accumulation_steps", "name"),
}
"""What kgen does by itself."""
WITHOUT_EFFECT = {("Adafactor", "relative_step"), ("ScheduleFreeAdamW", "warmup_steps")}
"""Options that say nothing beside a schedule of kgen's."""
OTHER_DEFAULTS = {("AdamW", "weight_decay"): 0.01}
RATE = 0.02


def of_keras(name: str) -> type[Any]:
    return registry().find("optimizer", name).load().__mro__[1]


def test_every_optimizer_of_keras_is_there() -> None:
    wrappers = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}
    found = {
        cls
        for name, cls in vars(keras.optimizers).items()
        if inspect.isclass(cls) and issubclass(cls, keras.optimizers.Optimizer) and name not in wrappers
    }
    assert len(found) >= 14 and {of_keras(name) for name in NAMES} == found


@pytest.mark.parametrize("name", NAMES)
def test_its_options_are_those_of_keras_with_the_same_defaults(name: str) -> None:
    theirs = inspect.signature(of_keras(name).__init__).parameters
    own = {key: option.default for key, option in options(registry().find("optimizer", name).load()).items()}
    cls = of_keras(name).__name__
    kept = {key for key in theirs if key not in {"self", "kwargs", *OF_KGEN} and (cls, key) not in WITHOUT_EFFECT}
    assert set(own) == kept
    for key, value in own.items():
        expected = OTHER_DEFAULTS.get((cls, key), theirs[key].default)
        assert (value or None) == (expected or None), key


# ---- what is added -----------------------------------------------------------------------------------------------

SHAPES = {"kernel": (4, 3), "bias": (3,), "table": (5, 2), "filter": (2, 2, 3, 2)}


def weights() -> list[Any]:
    numbers = np.random.default_rng(0)
    return [keras.Variable(numbers.normal(size=s).astype(np.float32), name=n) for n, s in SHAPES.items()]


def gradients(step: int) -> list[np.ndarray]:
    numbers = np.random.default_rng(step + 1)
    return [numbers.normal(size=shape).astype(np.float32) for shape in SHAPES.values()]


def arrays(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def steps(optimizer: Any, variables: list[Any], scale: float = 1.0) -> list[list[np.ndarray]]:
    """The weights after each of three steps."""
    optimizer.build(variables)
    found = []
    for step in range(3):
        optimizer.apply([ops.convert_to_tensor(scale * gradient) for gradient in gradients(step)], variables)
        found.append(arrays(variables))
    return found


def plain(name: str, rate: float = RATE) -> Any:
    """Keras's own, with kgen's defaults and a weight decay; on PyTorch in its own implementation."""
    cls = of_keras(name)
    more = {"exclude_layers": ["table"]} if name == "muon" else {}
    return cls(rate, weight_decay=0.1, **more)


def expected_steps(name: str, rate: float = RATE, scale: float = 1.0) -> list[list[np.ndarray]]:
    optimizer, variables = plain(name, rate), weights()
    optimizer.exclude_from_weight_decay(var_list=[variables[1]])
    return steps(optimizer, variables, scale)


def made(name: str, **given: Any) -> Any:
    arguments = {"clip_norm": None, "average": None, **given}
    return make_optimizer({"name": name, "weight_decay": 0.1}, RATE, **arguments)


def close(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float = 1e-6) -> None:
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=tolerance, err_msg=str(number))


@pytest.mark.backends
@pytest.mark.parametrize("name", NAMES)
def test_the_steps_are_those_of_keras_and_the_average_follows_them(name: str) -> None:
    expected = expected_steps(name)
    optimizer, variables = made(name, average=0.08), weights()
    average = arrays(variables)
    for step, found in enumerate(steps(optimizer, variables)):
        close(found, expected[step])
        decay = min(0.08, step / (step + 10))
        average = [decay * mean + (1 - decay) * weight for mean, weight in zip(average, found, strict=True)]
    close(arrays(optimizer.averages), average)
    assert {id(variable) for variable in optimizer.averages} <= {id(variable) for variable in optimizer.variables}


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_clipped_together(name: str) -> None:
    norms = [np.sqrt(sum(np.square(gradient).sum() for gradient in gradients(step))) for step in range(3)]
    limit = min(norms) / 4
    optimizer, variables = made(name, clip_norm=limit), weights()
    reference, others = plain(name), weights()
    reference.exclude_from_weight_decay(var_list=[others[1]])
    for one, variables_of in ((optimizer, variables), (reference, others)):
        one.build(variables_of)
    for step, norm in enumerate(norms):
        optimizer.apply([ops.convert_to_tensor(gradient) for gradient in gradients(step)], variables)
        reference.apply([ops.convert_to_tensor(gradient * limit / norm) for gradient in gradients(step)], others)
        np.testing.assert_allclose(ops.convert_to_numpy(optimizer.gradient_norm), norm, rtol=1e-5)
    close(arrays(variables), arrays(others))


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_takes_its_share_of_the_learning_rate(name: str) -> None:
    """Without decay, such a weight is updated like a weight that is trained with the lower learning rate."""
    variables = weights()
    variables[1].learning_rate_share = 0.25
    found = steps(made(name), variables)
    full, lower = expected_steps(name), expected_steps(name, 0.25 * RATE)
    for step in range(3):
        close([found[step][0], found[step][1]], [full[step][0], lower[step][1]])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's")
@pytest.mark.parametrize("name", NAMES)
def test_two_replicas_step_as_one_device(name: str) -> None:
    import tensorflow as tf

    found = []
    for strategy in (None, mirrored()):
        with strategy.scope() if strategy else contextlib.nullcontext():
            variables = weights()
            optimizer = made(name, clip_norm=0.5, average=0.9)
            optimizer.build(variables)

        def step(variables: Any = variables, optimizer: Any = optimizer, shared: bool = strategy is not None) -> None:
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            parts = [  # of two unequal parts, whose sum is the whole
                tf.constant(gradient) * ((0.25 if index == 0 else 0.75) if shared else 1.0) for gradient in gradients(0)
            ]
            optimizer.apply(parts, variables)

        for _ in range(3):
            strategy.run(step) if strategy else step()
        found.append(arrays([*variables, *optimizer.averages]))
        if strategy:
            for variable in [*variables, *optimizer.variables]:
                first, second = copies(strategy, variable)
                np.testing.assert_array_equal(first, second, err_msg=variable.path)
    close(found[1], found[0])


# ---- Muon --------------------------------------------------------------------------------------------------------


@pytest.mark.backends
def test_muon_makes_steps_of_kernels_orthogonal_and_leaves_the_rest_to_adam() -> None:
    variables = weights()
    before = arrays(variables)
    given = {"name": "muon", "rms_rate": None, "weight_decay": 0.0, "adam_weight_decay": 0.0}
    optimizer = make_optimizer(given, RATE, clip_norm=None, average=None)
    optimizer.build(variables)
    optimizer.apply([ops.convert_to_tensor(gradient) for gradient in gradients(0)], variables)
    moved = [(after - start) / RATE for after, start in zip(arrays(variables), before, strict=True)]
    singular = np.linalg.svd(moved[0], compute_uv=False)
    assert singular.min() > 0.6 and singular.max() < 1.3  # as near to 1 as five iterations come
    for other, gradient in zip(moved[1:], gradients(0)[1:], strict=True):  # the first step of Adam
        np.testing.assert_allclose(other, -np.sign(gradient), rtol=1e-3)


def test_muon_leaves_the_layers_that_one_names_to_adam() -> None:
    outer, inner = keras.layers.Dense(3, name="output"), keras.layers.Dense(3, name="hidden")
    for layer in (outer, inner):
        layer.build((None, 4))
    variables = [outer.kernel, outer.bias, inner.kernel]
    optimizer = make_optimizer({"name": "muon", "exclude_layers": ["^out"]}, RATE, clip_norm=None, average=None)
    optimizer.build(variables)
    assert [velocity is not None for velocity in optimizer.adam_velocities] == [True, True, False]
    optimizer = make_optimizer({"name": "muon", "exclude_layers": ["autput"]}, RATE, clip_norm=None, average=None)
    with pytest.raises(ConfigError, match="'autput' matches no matrix: there are output/kernel, hidden/kernel"):
        optimizer.build(variables)


# ---- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["adamw", "muon", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lion", "adafactor"))]
)
def test_a_killed_training_ends_with_the_very_same_weights(name: str, tmp_path: Path) -> None:
    choice = ComponentConfig(name=name)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", 9, Patterns(), stop=6, optimizer=choice)
    whole, _ = run(tmp_path / "whole", 9, Patterns(), optimizer=choice)
    resumed, progress = run(tmp_path / "killed", 9, Patterns(), optimizer=choice)
    assert progress.step == 9
    for one, other in (
        (whole.trainable_variables, resumed.trainable_variables),
        (whole.optimizer.variables, resumed.optimizer.variables),
    ):
        assert len(one) >= 5
        for first, second in zip(one, other, strict=True):
            np.testing.assert_array_equal(second.numpy(), first.numpy(), err_msg=first.path)


# ---- an optimizer of another package -----------------------------------------------------------------------------

OTHERS = '''
import keras
import kgen

class Signs(keras.optimizers.Optimizer):
    """Steps of the learning rate along the sign of the gradient."""

    def __init__(self, learning_rate, *, factor: float = 1.0, **kwargs):
        super().__init__(learning_rate, **kwargs)
        if factor == 13:
            raise ValueError("13 is an unlucky factor")
        self.factor = factor

    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, self.factor * learning_rate * keras.ops.sign(gradient))

class Old(keras.optimizers.Optimizer):
    def __init__(self, learning_rate=0.1, rho=0.5): ...

class Aside(Signs):
    def apply(self, grads, trainable_variables=None):
        for gradient, variable in zip(grads, trainable_variables):
            variable.assign(variable - gradient)

class Nan(Signs):
    def update_step(self, gradient, variable, learning_rate):
        self.assign(variable, variable / 0.0 * 0.0)

@kgen.hookimpl
def kgen_components(registry):
    for name in ("signs", "old", "aside", "nan"):
        registry.optimizer(name, f"{__name__}:{name.capitalize()}", summary="")
    registry.optimizer("none", "kgen_toy.parts:Squares", summary="")
    registry.optimizer("adamw", f"{__name__}:Signs", summary="")
'''


@pytest.fixture
def others(site, monkeypatch: pytest.MonkeyPatch) -> Any:
    site.install("others", OTHERS)
    registry.cache_clear()
    yield
    registry.cache_clear()


def fitted(name: str, **given: Any) -> FitConfig:
    return FitConfig(steps=3, learning_rate=0.1, optimizer=ComponentConfig(name=name, options=given))


@pytest.mark.usefixtures("others")
def test_an_optimizer_of_another_package_is_averaged_and_clipped_too() -> None:
    from test_training import make

    pipeline = make(Patterns())
    fit = fitted("signs", factor=2.0)
    try_fit(fit, pipeline.trainable_variables)
    compile_model(pipeline, fit.model_copy(update={"warmup_steps": 0, "schedule": "constant"}))
    before = arrays(pipeline.trainable_variables)
    pipeline.optimizer.apply([ops.ones(v.shape) for v in pipeline.trainable_variables], pipeline.trainable_variables)
    for start, weight in zip(before, arrays(pipeline.trainable_variables), strict=True):
        np.testing.assert_allclose(weight, start - 0.2, atol=1e-6)
    assert len(pipeline.optimizer.averages) == len(before)


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    "name, given, message",
    [
        (
            "old",
            {},
            "optimizer 'others/old' of kgen-plugin-others 0.5: made_plugin_.*:Old has an argument 'rho' before the "
            r"'\*', where kgen supplies 'learning_rate' alone: options stand after a '\*', as in __init__\(self, "
            r"learning_rate, \*, rho=...\)",
        ),
        ("none", {}, "cannot be imported|is not a subclass of keras.optimizers.Optimizer"),
        ("signs", {"factor": "2"}, "others/signs: factor: must be a number, got '2'"),
        ("signs", {"factor": 13}, "optimizer 'others/signs': 13 is an unlucky factor"),
        ("aside", {}, "others/aside.*changes weights outside of update_step, so kgen cannot average them"),
        ("nan", {}, "others/nan.*a weight of 1 with a gradient of 1 became infinite or NaN"),
        ("adamw", {}, r"'adamw' is ambiguous: write one of 'kgen/adamw' .*, 'others/adamw'"),
    ],
)
def test_an_optimizer_that_cannot_be_used_is_refused_before_the_training(
    name: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, PluginError), match=message):
        try_fit(fitted(name, **given), weights())


@pytest.mark.usefixtures("others")
def test_the_default_is_keras_adamw_whatever_others_register() -> None:
    optimizer = make_optimizer(FitConfig(steps=1).optimizer.choice, 0.1, clip_norm=1.0, average=None)
    assert isinstance(optimizer, keras.optimizers.AdamW) and optimizer.weight_decay == 0.01


def test_the_class_of_an_optimizer_is_created_once() -> None:
    assert averaging(keras.optimizers.SGD) is averaging(keras.optimizers.SGD)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_an_optimizer_is_tried_in_the_scope_of_a_strategy() -> None:
    with mirrored().scope():
        variables = weights()
        before = arrays(variables)
        try_fit(FitConfig(steps=3, optimizer=ComponentConfig(name="muon")), variables)
    for start, weight in zip(before, arrays(variables), strict=True):
        np.testing.assert_array_equal(weight, start)
