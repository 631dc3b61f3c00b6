"""The base class of layers whose activations are not kept, if training has `fit.remat`."""

from __future__ import annotations

from typing import Any

import keras

from kgen.backend.steps.rematerialization import rematerialized, wanted


class RematLayer(keras.layers.Layer):  # type: ignore[misc]
    """A layer of which a network has many, such as a transformer block or a residual block.

    With `fit.remat`, training does not keep the activations inside of it, but computes them again for its gradient. A
    `RematLayer` inside of another is a part of it. It must not call `add_loss`.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.built and wanted():
            return rematerialized(self, super().__call__, args, kwargs)
        return super().__call__(*args, **kwargs)
