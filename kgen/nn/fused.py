"""A dense layer of several projections, such as queries, keys and values."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any


class FusedDense(keras.layers.Dense):  # type: ignore[misc]
    """Several projections of one input, side by side in one matrix product.

    It computes what `keras.layers.Dense` computes. They differ only with LoRA (`enable_lora`, Hu et al. 2022): here,
    each projection has its own two factors, as in `MergedLinear` of loralib, the code of that paper. The layer then
    equals separate dense layers with LoRA, so that it can hold the published LoRA of separate projections. (`Dense`
    would share one factor among the projections.)

    Args:
        units: Width of all projections together.
        parts: Number of projections, which must divide `units`.

    Raises:
        ValueError: `parts` does not divide `units`.
    """

    def __init__(self, units: int, parts: int, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        if units % parts:
            raise ValueError(f"{units} units are not divisible into {parts} projections")
        self.parts = parts

    @property
    def kernel(self) -> Any:
        """(C, units): the kernel, with the product of the factors if LoRA is enabled."""
        if not self.lora_enabled:
            return super().kernel
        scale = self.lora_alpha / self.lora_rank
        a = ops.reshape(self.lora_kernel_a, (-1, self.parts, self.lora_rank))  # (C, P, r)
        b = ops.reshape(self.lora_kernel_b, (self.lora_rank, self.parts, -1))  # (r, P, units / P)
        product = ops.reshape(ops.einsum("cpr,rpu->cpu", a, b), self._kernel.shape)  # (C, units)
        return ops.cast(ops.add(self._kernel, scale * product), self.compute_dtype)

    def enable_lora(
        self,
        rank: int,
        lora_alpha: float | None = None,
        a_initializer: Any = "he_uniform",
        b_initializer: Any = "zeros",
    ) -> None:
        """Freezes the kernel, and adds the factors `lora_kernel_a` (C, P r) and `lora_kernel_b` (r, units).

        Columns p r to (p + 1) r of the first, and columns p units / P to (p + 1) units / P of the second, are the
        factors of projection p.

        Args:
            rank: The rank r of each projection's factors.
            lora_alpha: Their product is multiplied by `lora_alpha / rank`; None: by 1.
            a_initializer, b_initializer: Initializers of the two factors.

        Raises:
            ValueError: the layer is not built, or LoRA is already enabled.
        """
        if not self.built or self.lora_enabled:  # type: ignore[has-type]
            raise ValueError(f"layer '{self.name}' is not built, or LoRA is already enabled")
        self._tracker.unlock()
        shapes = {"a": (self._kernel.shape[0], self.parts * rank), "b": (rank, self.units)}
        for (name, shape), first in zip(shapes.items(), (a_initializer, b_initializer), strict=True):
            initializer = keras.initializers.get(first)
            key = f"lora_kernel_{name}"
            setattr(self, key, self.add_weight(shape=shape, initializer=initializer, dtype="float32", name=key))
        self._kernel.trainable = False
        self._tracker.lock()
        self.lora_enabled = True
        self.lora_rank = rank
        self.lora_alpha = rank if lora_alpha is None else lora_alpha

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "parts": self.parts}
