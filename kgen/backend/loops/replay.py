"""A loop on PyTorch that replays the calls of one iteration."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import keras
import torch
from keras import ops

from kgen.backend.loops.calls import Step, compiled_calls
from kgen.backend.loops.recording import Recording, RecordingError

_active = threading.local()


def replayed_loop(lower: int, upper: int, body: Callable[[Any, Any], Any], state: Any) -> Any:
    """`keras.ops.fori_loop` that records the second iteration, if possible, and replays it: see `fori_loop`."""
    leaves = keras.tree.flatten(state)
    plain = all(isinstance(leaf, torch.Tensor) and not leaf.is_meta for leaf in leaves)
    if not plain or torch.is_grad_enabled() or torch.compiler.is_compiling() or getattr(_active, "recording", False):
        return ops.fori_loop(lower, upper, body, state)
    state = body(lower, state)  # layers may create their weights here
    _active.recording = True
    try:
        step, after = _record(lower + 1, body, state)
    except Exception:  # if it is an error of the body, the loop below raises it, too
        return ops.fori_loop(lower + 1, upper, body, state)
    finally:
        _active.recording = False
    with torch.inference_mode():
        index = ops.convert_to_tensor(lower + 2, "int32")
        values = tuple(leaf.clone() for leaf in keras.tree.flatten(after))
        for _ in range(lower + 2, upper):
            values = step(index, *values)
            index = index + 1
    return keras.tree.pack_sequence_as(after, [value.clone() for value in values])


def _record(index: int, body: Callable[[Any, Any], Any], state: Any) -> tuple[Step, Any]:
    """Records an iteration, and returns a function that replays it, and the next state."""
    recording = Recording()
    number = recording.input(ops.convert_to_tensor(index, "int32"))
    before = [recording.input(part) for part in keras.tree.flatten(state)]
    with recording:
        after = body(number, keras.tree.pack_sequence_as(state, before))
    if not recording.complete:
        raise RecordingError("a call was refused")
    keras.tree.assert_same_structure(state, after)
    outputs = keras.tree.flatten(after)
    for part, next_part in zip(before, outputs, strict=True):
        if (part.shape, part.dtype, part.device) != (next_part.shape, next_part.dtype, next_part.device):
            raise RecordingError("the state of the loop has other shapes or types than before")
    settled = all(part.stride() == next_part.stride() for part, next_part in zip(before, outputs, strict=True))
    return compiled_calls(recording, [recording.value(part) for part in outputs], settled), after
