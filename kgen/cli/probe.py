"""Tries the backend that KERAS_BACKEND names, for `kgen doctor`, in a process of its own: `python -m kgen.cli.probe`.

Backends can disturb each other in one process, and one that is not installed properly can end it. The only line on
stdout is a JSON object: "accelerators" has their names. With the argument "components", all components of all plugins
are imported; "components" is then their number, and "faults" has the errors.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

COMPONENTS = "components"


def main() -> None:
    """Prints what works. Any exception means that the backend does not work."""
    from kgen.backend.selection import load_backend
    from kgen.cli.common import output_to_stderr

    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else it takes the whole memory of a GPU
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with output_to_stderr():
        load_backend()
        found = try_backend()
        if COMPONENTS in sys.argv[1:]:
            found |= try_components()
    print(json.dumps(found))


def try_backend() -> dict[str, Any]:
    """Computes a product on the device, with a result that is known.

    Raises:
        ArithmeticError: the result is wrong.
    """
    import numpy as np
    from keras import ops

    from kgen.backend.devices import accelerators

    numbers = np.arange(6, dtype="float32").reshape(2, 3)
    product = ops.convert_to_numpy(ops.matmul(numbers, numbers.T))
    if not np.allclose(product, [[5, 14], [14, 50]]):
        raise ArithmeticError(f"a product of matrices is {product.tolist()}, not [[5, 14], [14, 50]]")
    return {"accelerators": accelerators()}


def try_components() -> dict[str, Any]:
    """Imports all components of all plugins."""
    from kgen.errors import KgenError
    from kgen.plugins.discovery import registry

    faults = []
    components = registry().components.values()
    for component in components:
        try:
            component.load()
        except KgenError as error:
            faults.append(str(error))
    return {COMPONENTS: len(components), "faults": faults}


if __name__ == "__main__":
    main()
