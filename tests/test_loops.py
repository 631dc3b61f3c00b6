"""Loops whose iterations PyTorch replays: the same results as those of Keras's loops, or no replay."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen import fori_loop, slice_update
from kgen.backend.gradients import no_gradients

on_torch = pytest.mark.skipif(keras.backend.backend() != "torch", reason="other backends compile loops")
STEPS = 12
Body = Callable[[Any, Any], Any]


def tensor(*shape: int, seed: int = 0) -> Any:
    return ops.convert_to_tensor(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


def results(body: Body, state: Any, loop: Any = fori_loop) -> list[np.ndarray]:
    """The leaves of the last state."""
    with no_gradients():
        made = loop(0, STEPS, body, state)
    return [ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(made)]


def runs(body: Body, state: Any) -> int:
    """How often the body runs in Python in a loop, whose results are those of Keras's loop, bit for bit."""
    count = [0]

    def counted(i: Any, state: Any) -> Any:
        count[0] += 1
        return body(i, state)

    expected = results(body, state, ops.fori_loop)
    for made, wanted in zip(results(counted, state), expected, strict=True):
        np.testing.assert_array_equal(made, wanted)
    return count[0]


@pytest.mark.backends
def test_a_loop_gives_the_state_of_keras_loop() -> None:
    weight, table, keys = (
        keras.Variable(tensor(4, 4)),
        tensor(STEPS, 4),
        ops.convert_to_tensor([[1, 2], [3, 4], [5, 6]]),
    )
    layer = keras.layers.Dense(4, activation="gelu")
    layer.build((None, 4))

    def body(i: Any, state: dict[str, Any]) -> dict[str, Any]:
        x, (cache, last) = state["x"], state["pair"]
        y = ops.tanh(ops.matmul(x, weight)) + ops.take(table, i, axis=0) + layer(last)
        first, second = ops.split(ops.softmax(y), 2, axis=-1)
        y = ops.concatenate([second, first], axis=-1) + kgen.random.normal(keys, i, (4,))
        return {"x": ops.where(i % 3 == 0, y, x), "pair": (slice_update(cache, (0, i, 0), y[:, None]), x)}

    state = {"x": tensor(3, 4), "pair": (ops.zeros((3, STEPS, 4)), tensor(3, 4, seed=1))}
    for made, wanted in zip(results(body, state), results(body, state, ops.fori_loop), strict=True):
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5)
    if keras.backend.backend() == "torch":
        assert runs(body, state) == 2


@pytest.mark.backends
def test_a_slice_is_updated_at_a_tensor() -> None:
    whole, part = tensor(3, 5, 4), tensor(2, 2, 4, seed=1)
    for start in ((0, 2, 0), (0, ops.convert_to_tensor(2), 0), (1, ops.convert_to_tensor(3, "int32"), 0)):
        wanted = ops.convert_to_numpy(whole).copy()
        wanted[int(start[0]) : int(start[0]) + 2, int(start[1]) : int(start[1]) + 2] = ops.convert_to_numpy(part)
        np.testing.assert_array_equal(ops.convert_to_numpy(slice_update(whole, start, part)), wanted)
    assert not np.array_equal(ops.convert_to_numpy(whole), wanted)


CONSTANT = tensor(2, STEPS, seed=4)


def swap(i: Any, state: Any) -> Any:
    """Two buffers, one of which is written, change places."""
    first, second = state
    return slice_update(second, (0, i), first[:, :1] + 1.0), first


def share(i: Any, state: Any) -> Any:
    """Both parts of the next state are the same tensor, and the next step changes a copy of one of them."""
    first, second = state
    made = slice_update(first, (0, i), second[:, :1] + ops.cast(i, "float32")) + 0.1 * second
    return made, made


def shift(i: Any, state: Any) -> Any:
    """A tensor is changed two steps after it came into the state."""
    first, second, third = state
    return slice_update(third, (0, i), first[:, :1] + 1.0), first, second


def swap_with_constant(i: Any, state: Any) -> Any:
    """A constant of the loop is also a part of its first state."""
    x, first, second = state
    return 0.5 * x + CONSTANT, second, first


def write_between(i: Any, state: Any) -> Any:
    """The same call has other results after a tensor has changed."""
    (x,) = state
    y = ops.copy(x)
    total = ops.sum(y)
    y[:, 0] = 7.0
    return (0.5 * x + total - ops.sum(y),)


def write_to_index(i: Any, state: Any) -> Any:
    """A copy of the index is changed, but not the index."""
    (x,) = state
    j = ops.copy(i)
    j[...] = j + 3
    return (0.5 * x + ops.cast(j, "float32"),)


def keep_old(i: Any, state: Any) -> Any:
    """The copy is changed before the last use of the tensor that it was copied from."""
    (x,) = state
    made = slice_update(x, (0, i), x[:, :1] + 1.0)
    return (made + x,)


def through_view(i: Any, state: Any) -> Any:
    (x,) = state
    flipped = ops.transpose(x)
    made = slice_update(x, (0, i), x[:, :1] + 1.0)
    return (0.5 * made + ops.transpose(flipped),)


def rows(i: Any, state: Any) -> Any:
    (x,) = state
    return (x + x[i // 6] + x[:, 2:3] * ops.max(x, axis=1, keepdims=True),)


def unused(i: Any, state: Any) -> Any:
    x, y = state
    ops.exp(x)
    return ops.tanh(x) + ops.tanh(x), y


def mask(i: Any, state: Any) -> Any:
    (x,) = state
    return (ops.where(ops.convert_to_tensor(np.tri(2, STEPS, dtype=bool)), x * 0.5, x),)


@on_torch
@pytest.mark.portable
@pytest.mark.parametrize(
    "body",
    [swap, share, shift, swap_with_constant, write_between, write_to_index, keep_old, through_view, rows, unused, mask],
)
def test_memory_is_changed_only_if_nothing_else_reads_it(body: Body) -> None:
    count = {swap: 2, share: 2, unused: 2, shift: 3}.get(body, 1)
    state: Any = tuple(tensor(2, STEPS, seed=n) for n in range(count))
    if body is swap_with_constant:
        state = (*state, CONSTANT, tensor(2, STEPS, seed=3))
    before = [ops.convert_to_numpy(x).copy() for x in state]
    assert runs(body, state) == 2
    for x, old in zip(state, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(x), old)


@on_torch
@pytest.mark.portable
def test_a_cache_is_not_copied_and_nothing_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen.backend.loops import calls

    found: list[list[Any]] = []
    function = calls._function
    monkeypatch.setattr(calls, "_function", lambda made, *rest: (found.append(made), function(made, *rest))[1])

    def body(i: Any, state: Any) -> Any:
        x, cache = state
        y = ops.tanh(x) * ops.tanh(x)
        return y, slice_update(cache, (0, i), y[:, :1])

    assert runs(body, (tensor(2, 3), ops.zeros((2, STEPS)))) == 2
    names = [call.function.__name__ for call in found[0]]
    assert names.count("tanh") == 1 and "clone" not in names and "index_copy_" in names


generator = kgen.SeedGenerator(1)


def reads_a_number(i: Any, state: Any) -> Any:
    return state * (2.0 if float(state[0, 0]) > 0.3 else 0.9)


def reads_an_array(i: Any, state: Any) -> Any:
    return state - float(ops.convert_to_numpy(state).max())


def catches_errors(i: Any, state: Any) -> Any:
    try:
        return state * (2.0 if state[0, 0] > 0.3 else 0.9)
    except Exception:
        return state


def chooses(i: Any, state: Any) -> Any:
    return ops.cond(ops.sum(state) > 0.0, lambda: state - 0.3, lambda: state + 0.7)


def has_a_branch(i: Any, state: Any) -> Any:
    return state + 1.0 if i == 7 else 0.5 * state


def counts_in_python(i: Any, state: Any) -> Any:
    return state + sum(range(i))


def changes_shape(i: Any, state: Any) -> Any:
    return ops.concatenate([state, state[:1]])


def selects(i: Any, state: Any) -> Any:
    return state + ops.sum(state[state > 0.0])


def follows_a_gradient(i: Any, state: Any) -> Any:
    import torch

    with torch.enable_grad():
        x = state.detach().requires_grad_()
        (slope,) = torch.autograd.grad((x**2).sum(), x)
    return state - 0.1 * slope


def writes_to_the_state(i: Any, state: Any) -> Any:
    state[0] += 1.0
    return state * 0.5


@on_torch
@pytest.mark.portable
@pytest.mark.parametrize(
    "body",
    [
        *(reads_a_number, reads_an_array, catches_errors, chooses, has_a_branch, counts_in_python, changes_shape),
        *(selects, follows_a_gradient, writes_to_the_state),
    ],
)
def test_what_cannot_be_replayed_runs_in_each_iteration(body: Body) -> None:
    count = [0]

    def counted(i: Any, state: Any) -> Any:
        count[0] += 1
        return body(i, state)

    (wanted,) = results(body, tensor(2, 3), ops.fori_loop)
    (made,) = results(counted, tensor(2, 3))
    np.testing.assert_array_equal(made, wanted)
    assert count[0] == STEPS + 1  # the second iteration begins anew


@on_torch
@pytest.mark.portable
def test_random_numbers_are_not_frozen() -> None:
    import torch

    def keras_noise(i: Any, state: Any) -> Any:
        return state + keras.random.normal((2, 3), seed=generator)

    def torch_noise(i: Any, state: Any) -> Any:
        return state + torch.rand(2, 3)

    for body in (keras_noise, torch_noise):
        made = []
        for loop in (fori_loop, ops.fori_loop):
            generator.state.assign([1, 0])
            torch.manual_seed(0)
            made += results(body, tensor(2, 3), loop)
        np.testing.assert_array_equal(made[0], made[1])


@on_torch
@pytest.mark.portable
def test_weights_are_read_in_each_loop_and_nothing_stays() -> None:
    weight: Any = keras.Variable(tensor(3, 3))

    def body(i: Any, state: Any) -> Any:
        return ops.tanh(ops.matmul(state, ops.cast(ops.cast(weight, "bfloat16"), "float32")))

    first = results(body, tensor(2, 3))
    weight.assign(tensor(3, 3, seed=3))
    assert runs(body, tensor(2, 3)) == 2 and not np.array_equal(first, results(body, tensor(2, 3)))
    kept = weakref.ref(weight.value)
    weight = None
    gc.collect()
    assert kept() is None


@on_torch
@pytest.mark.portable
def test_constants_take_limited_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen.backend.loops import recording, replay

    weight = keras.Variable(tensor(3, 3))
    kept: list[int] = []
    compiled = replay.compiled_calls
    monkeypatch.setattr(
        replay, "compiled_calls", lambda made, *rest: (kept.append(len(made.calls)), compiled(made, *rest))[1]
    )

    def body(i: Any, state: Any) -> Any:
        return ops.tanh(ops.matmul(state, ops.exp(ops.cast(ops.cast(weight, "bfloat16"), "float32"))))

    for limit in (2**28, 0):
        monkeypatch.setattr(recording, "MAX_CONSTANT_BYTES", limit)
        assert runs(body, tensor(2, 3)) == 2
    assert kept[1] == kept[0] + 3  # two casts and the exponential function


@on_torch
@pytest.mark.portable
def test_gradients_flow_through_a_loop() -> None:
    weight, indices = keras.Variable(tensor(3, 3)), list[Any]()

    def body(i: Any, x: Any) -> Any:
        indices.append(i)
        return ops.tanh(ops.matmul(x, weight))

    ops.sum(fori_loop(0, STEPS, body, tensor(2, 3))).backward()
    assert indices == list(range(STEPS))
    assert float(ops.max(ops.abs(weight.value.grad))) > 0.0


@on_torch
@pytest.mark.portable
def test_results_can_be_trained_on() -> None:
    """Tensors of PyTorch's inference mode could not."""
    weight = keras.Variable(tensor(3, 3))
    with no_gradients():
        made = fori_loop(0, STEPS, lambda i, x: ops.tanh(x) + 0.1, tensor(2, 3))
    ops.sum(ops.matmul(made, weight)).backward()
    made += 1.0
    assert float(ops.max(ops.abs(weight.value.grad))) > 0.0


@on_torch
@pytest.mark.portable
def test_loops_inside_of_loops_are_replayed_as_a_part() -> None:
    def body(i: Any, state: Any) -> Any:
        return fori_loop(0, 5, lambda j, x: ops.tanh(x) + 0.1 * ops.cast(j, "float32"), state)

    assert runs(body, tensor(2, 3)) == 2


@on_torch
@pytest.mark.portable
def test_errors_of_the_body_are_raised() -> None:
    def body(i: Any, state: Any) -> Any:
        if i == 8:
            raise ValueError("step eight")
        return state

    with pytest.raises(ValueError, match="step eight"):
        results(body, tensor(2, 3))
