"""The autoregressive prior: its contract, principal components, buckets, and what it learns."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_unclip.ar_prior import ARPrior
from kgen_plugin_unclip.components import Quantiles, QuantizedComponents

from kgen import ConditionSpace, ConfigError, Space, SpaceError
from kgen.plugins.discovery import registry
from kgen.random import sample
from kgen.testing import GeneratorConformance
from kgen.testing.execution import perturb, tensors
from kgen.testing.inputs import random_conditions

pytestmark = pytest.mark.portable

SPACE, CONDITIONS = Space("continuous", (6,), bounded=False), ConditionSpace(3, 8, 6)
TINY = {
    "name": "tokens/ar",
    "network": {"width": 16, "depth": 1, "heads": 2, "text": "prefix", "positions": "learned"},
}


def build(**options: Any) -> ARPrior:
    return ARPrior(SPACE, CONDITIONS, **{"model": TINY, "components": 3, "buckets": 8, "product_buckets": 4, **options})


@pytest.mark.backends
class TestARPrior(GeneratorConformance):
    generate_options: ClassVar = ({}, {"candidates": 2, "guidance": 2.0, "temperature": 0.7, "top_p": 0.9})

    def build(self) -> ARPrior:
        return build()


def vectors(count: int = 200, dim: int = 6, seed: int = 0) -> np.ndarray:
    """Vectors whose axes have different variances, rotated, with a mean."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    return (rng.standard_normal((count, dim)) * 2.0 ** -np.arange(dim) @ rotation + 0.3).astype("float32")


def measured(count: int, buckets: int, x: np.ndarray) -> QuantizedComponents:
    layer = QuantizedComponents(x.shape[1], count, buckets)
    layer.build(None)
    layer.measure(lambda: (x[:70], x[70:]))
    return layer


def test_it_is_registered() -> None:
    assert registry().find("generator", "unclip/ar-prior").load() is ARPrior


def test_the_components_are_those_of_the_singular_value_decomposition() -> None:
    x = vectors()
    layer = measured(3, 16, x)
    mean = x.astype(np.float64).mean(axis=0)
    _, deviations, axes = np.linalg.svd(x.astype(np.float64) - mean, full_matrices=False)
    found = ops.convert_to_numpy(layer.axes)  # (6, 3)
    assert (found.sum(axis=0) > 0).all()  # either sign is a solution, and this one is chosen
    np.testing.assert_allclose(np.abs(np.sum(found * axes[:3].T, axis=0)), 1.0, atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.mean), mean, atol=1e-6)
    assert math.isclose(layer.share, np.sum(deviations[:3] ** 2) / np.sum(deviations**2), rel_tol=1e-5)
    spread = ops.convert_to_numpy(ops.matmul(x - layer.mean, layer.axes)).std(axis=0)
    assert (np.diff(spread) < 0).all()  # in falling order of variance


def test_tokens_are_buckets_of_equal_width_that_cover_the_training_data() -> None:
    x = vectors()
    layer = measured(6, 16, x)
    tokens = ops.convert_to_numpy(layer.encode(x))
    values = (x - ops.convert_to_numpy(layer.mean)) @ ops.convert_to_numpy(layer.axes)
    for component, value in zip(tokens.T, values.T, strict=True):
        edges = np.linspace(value.min(), value.max(), 17)
        expected = np.clip(np.digitize(value, edges) - 1, 0, 15)
        assert np.mean(component == expected) > 0.99  # the rest lie on an edge
        assert component.min() == 0 and component.max() == 15
    width = values.max(axis=0) - values.min(axis=0)
    again = (ops.convert_to_numpy(layer.decode(tokens)) - ops.convert_to_numpy(layer.mean)) @ ops.convert_to_numpy(
        layer.axes
    )
    assert (np.abs(again - values) <= width / 16 / 2 * 1.001).all()  # at most half of a bucket
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.encode(layer.decode(tokens))), tokens)
    outside = ops.convert_to_numpy(layer.encode(100.0 * x))
    assert outside.min() == 0 and outside.max() == 15


def test_fewer_vectors_than_components_are_enough() -> None:
    x = vectors(count=80, dim=6)
    x[2:] = x[:1]
    layer = measured(6, 4, x)
    again = ops.convert_to_numpy(layer.decode(layer.encode(x)))
    assert np.isfinite(again).all() and np.abs(again - x).max() <= np.ptp(x, axis=0).max()


def test_equal_vectors_have_one_bucket() -> None:
    x = np.ones((80, 6), np.float32)
    layer = measured(2, 4, x)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.decode(layer.encode(x))), x, atol=1e-5)
    assert layer.share == 0.0


def test_quantiles_contain_equally_many_numbers() -> None:
    layer = Quantiles(4)
    layer.build(None)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.limits), [-0.5, 0.0, 0.5])  # before they are measured
    numbers = np.random.default_rng(0).gamma(2.0, size=400).astype("float32")
    layer.measure(numbers)
    buckets = ops.convert_to_numpy(layer(ops.convert_to_tensor(numbers)))
    np.testing.assert_allclose(np.bincount(buckets), 100, atol=1)
    assert numbers[buckets == 3].min() > numbers[buckets == 2].max()


def made() -> ARPrior:
    keras.utils.set_random_seed(0)
    prior = build()
    x, condition = vectors(), random_conditions(CONDITIONS, 200, 0)
    prior.initialize([(x[:100], rows(condition, 0, 100)), (x[100:], rows(condition, 100, 200))])
    perturb(prior)
    return prior


def rows(condition: dict[str, np.ndarray], first: int, last: int) -> dict[str, np.ndarray]:
    return {name: value[first:last] for name, value in condition.items()}


def test_it_measures_the_dot_products_of_images_and_texts() -> None:
    prior, x, text = made(), vectors(), random_conditions(CONDITIONS, 200, 0)["pooled"]
    products = np.sum(x * text, axis=1) / 6  # of vectors of the length sqrt(6): the product for a length of 1
    expected = np.quantile(products, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(ops.convert_to_numpy(prior.products.limits), expected, rtol=1e-4, atol=1e-5)


def test_dot_products_are_sampled_from_the_upper_half() -> None:
    prior = made()
    uniform = ops.convert_to_tensor(np.array([0.0, 0.49, 0.51, 0.9999], "float32"))
    assert ops.convert_to_numpy(prior._upper_half(uniform)).tolist() == [2, 2, 3, 3]
    assert ops.convert_to_numpy(build(product_buckets=5)._upper_half(uniform)).tolist() == [2, 3, 3, 4]


def test_the_sequence_is_text_embedding_and_dot_product() -> None:
    prior, condition = made(), tensors(random_conditions(CONDITIONS, 2, 0))
    joined = prior._joined(condition, ops.convert_to_tensor(np.array([1, 3], "int32")))
    found = {name: ops.convert_to_numpy(value) for name, value in joined.items()}
    np.testing.assert_array_equal(found["sequence"][:, :3], ops.convert_to_numpy(condition["sequence"]))
    kernel, bias = (ops.convert_to_numpy(v) for v in (prior.embedding.kernel, prior.embedding.bias))
    np.testing.assert_allclose(found["sequence"][:, 3], found["pooled"] @ kernel + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["sequence"][:, 4], ops.convert_to_numpy(prior.product.embeddings)[[1, 3]])
    assert found["mask"][1].tolist() == [1, 1, 0, 1, 1]


def test_samples_are_the_middles_of_buckets_at_the_length_of_latents() -> None:
    prior, condition = made(), tensors(random_conditions(CONDITIONS, 5, 0))
    noise = tensors(sample(prior.noise_spec(), [(0, copy) for copy in range(5)]))
    x = ops.convert_to_numpy(prior.generate(condition, condition, noise))
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), math.sqrt(6), rtol=1e-5)
    assert prior.num_sampling_steps() == 3


def test_the_tokens_are_predicted_from_the_dot_product_of_image_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, condition, seen = made(), random_conditions(CONDITIONS, 50, 3), []
    x = vectors(seed=5)[:50]

    def losses(tokens: Any, joined: Any, training: bool) -> dict[str, Any]:
        seen.append((tokens, joined["sequence"]))
        return {"loss": ops.ones_like(joined["mask"][:, 0])}

    monkeypatch.setattr(prior.tokens, "compute_losses", losses)
    found = prior.compute_losses(ops.convert_to_tensor(x), tensors(condition), training=True)
    ((tokens, sequence),) = seen
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (tokens, prior.quantized.encode(x))))
    limits, table = (ops.convert_to_numpy(v) for v in (prior.products.limits, prior.product.embeddings))
    buckets = np.digitize(np.sum(x * condition["pooled"], axis=1) / 6, limits)
    assert len(set(buckets)) > 1
    np.testing.assert_allclose(ops.convert_to_numpy(sequence)[:, 4], table[buckets], atol=1e-6)
    error = np.mean((ops.convert_to_numpy(prior.quantized.decode(tokens)) - x) ** 2, axis=1)
    np.testing.assert_allclose(ops.convert_to_numpy(found["quantization"]), error, rtol=1e-4, atol=1e-6)


def test_options_of_sampling_reach_the_model_and_each_text_has_its_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prior, text, null = made(), *(tensors(random_conditions(CONDITIONS, 4, seed)) for seed in (0, 1))
    limits = np.quantile(ops.convert_to_numpy(prior._dot(prior.quantized.mean, null)), [0.25, 0.5, 0.75])
    prior.products.limits.assign(limits)  # so that the four texts have all four buckets
    seen: list[Any] = []

    def sampled(condition: Any, null: Any, noise: Any, **options: Any) -> Any:
        seen.append((condition, null, options))
        return ops.zeros((8, 3), "int32")

    monkeypatch.setattr(prior.tokens, "generate", sampled)
    given = {"temperature": 0.7, "top_p": 0.9, "guidance": 2.0}
    noise = sample(prior.noise_spec(candidates=2), [(0, copy) for copy in range(4)])
    assert ops.shape(prior.generate(text, null, tensors(noise), candidates=2, **given)) == (4, 6)
    ((with_text, without, options),) = seen
    assert options == given
    mean = ops.convert_to_numpy(prior.quantized.mean)
    buckets = np.digitize(ops.convert_to_numpy(null["pooled"]) @ mean / 6, limits)
    assert sorted(buckets) == [0, 1, 2, 3]
    table = ops.convert_to_numpy(prior.product.embeddings)
    uniform = np.concatenate([noise[f"product{candidate}"][:, 0] for candidate in range(2)])  # of the upper half
    wanted = {"with": table[np.where(uniform < 0.5, 2, 3)], "without": np.tile(table[buckets], (2, 1))}
    for name, joined in (("with", with_text), ("without", without)):
        found = ops.convert_to_numpy(joined["sequence"])[:, 4]
        np.testing.assert_allclose(found, wanted[name], atol=1e-6, err_msg=name)
    monkeypatch.setattr(prior.tokens, "num_sampling_steps", lambda **options: options)
    assert prior.num_sampling_steps(candidates=2, **given) == given


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="components must be at most 6"):
        build(components=7)
    with pytest.raises(SpaceError, match="'diffusion/diffusion' models continuous latents, not 3 tokens of 8"):
        build(model={"name": "diffusion"})
    with pytest.raises(SpaceError, match="use 'clip/clip' as the only encoder"):
        ARPrior(SPACE, ConditionSpace(4, 8))
    with pytest.raises(ConfigError, match="unknown generator 'nothing'"):
        build(model={"name": "nothing"})
    large = ARPrior(Space("continuous", (1024,), bounded=False), ConditionSpace(3, 8, 1024), model=TINY)
    assert large.quantized.count == 319
