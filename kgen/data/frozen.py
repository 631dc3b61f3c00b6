"""What determines the outputs of a frozen part, whose outputs are cached."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import keras
import numpy as np


def provenance(part: Any) -> dict[str, str]:
    """Everything that determines the outputs of a frozen part: class, options, precision, backend and weights."""
    cls = type(part)
    return {
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "config": json.dumps(part.config, sort_keys=True),
        "dtype": part.dtype_policy.name,
        "backend": keras.backend.backend(),
        "weights": weights_fingerprint(part),
    }


def weights_fingerprint(part: keras.layers.Layer) -> str:
    """A hash of the bytes of all weights, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for weight in part.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8).data if array.size and array.ndim else array.tobytes())
    return digest.hexdigest()
