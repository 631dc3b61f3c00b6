"""Noise: the algorithm's published answers, its distribution, and what it depends on."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from kgen.random import NoiseSpec, SeedGenerator, interpolate, noise_keys, normal, sample, threefry, uniform

pytestmark = pytest.mark.backends

# Threefry-2x32, 20 rounds: key, counter, result (Random123 1.09, kat_vectors)
KNOWN_ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


def signed(number: int) -> np.ndarray:
    return np.array([[number]], np.uint32).view(np.int32)


def keys(count: int) -> np.ndarray:
    return sample({"key": NoiseSpec("key")}, [(3, copy) for copy in range(count)])["key"]


@pytest.mark.parametrize(("key", "counter", "result"), KNOWN_ANSWERS)
def test_threefry_agrees_with_the_published_test_vectors(
    key: tuple[int, int], counter: tuple[int, int], result: tuple[int, int]
) -> None:
    made = threefry(*[ops.convert_to_tensor(signed(number)) for number in (*key, *counter)])
    assert tuple(int(ops.convert_to_numpy(half).view(np.uint32)[0, 0]) for half in made) == result


def test_noise_is_the_same_on_every_backend() -> None:
    """Numbers that were computed by the definition, in Python's integers."""
    noise = ops.convert_to_numpy(uniform(ops.convert_to_tensor(keys(2)), 7, (2, 3)))
    for key, row in zip(keys(2).view(np.uint32), noise.reshape(2, -1), strict=True):
        expected = [(_threefry(int(key[0]), int(key[1]), index, 7)[0] >> 8) / 2**24 for index in range(6)]
        assert row.tolist() == expected


def _threefry(key0: int, key1: int, x0: int, x1: int) -> tuple[int, int]:
    """The definition (Salmon et al. 2011, section 4.2), independent of kgen's."""
    schedule, low = [key0, key1, key0 ^ key1 ^ 0x1BD11BDA], 2**32 - 1
    x0, x1 = (x0 + key0) & low, (x1 + key1) & low
    for number in range(20):
        rotation = [13, 15, 26, 6, 17, 29, 16, 24][number % 8]
        x0 = (x0 + x1) & low
        x1 = ((x1 << rotation | x1 >> 32 - rotation) & low) ^ x0
        if number % 4 == 3:
            group = number // 4 + 1
            x0, x1 = (x0 + schedule[group % 3]) & low, (x1 + schedule[(group + 1) % 3] + group) & low
    return x0, x1


def test_normal_is_normal() -> None:
    made = ops.convert_to_numpy(normal(ops.convert_to_tensor(keys(8)), 0, (5000,)))
    assert stats.kstest(made.ravel(), "norm").pvalue > 1e-3
    assert abs(made.mean()) < 0.02 and abs(made.std() - 1) < 0.02
    assert abs(stats.kurtosis(made.ravel())) < 0.1


def test_uniform_is_uniform() -> None:
    made = ops.convert_to_numpy(uniform(ops.convert_to_tensor(keys(8)), 0, (5000,)))
    assert stats.kstest(made.ravel(), "uniform").pvalue > 1e-3
    assert made.min() >= 0 and made.max() < 1


def test_noise_differs_by_key_counter_and_position() -> None:
    """No two of all these numbers are related: neither equal, nor correlated."""
    key = ops.convert_to_tensor(keys(2))
    made = np.concatenate([ops.convert_to_numpy(normal(key, counter, (2000,))) for counter in (0, 1, 1000)])
    assert len(np.unique(made)) > 0.99 * made.size
    correlations = np.corrcoef(made) - np.eye(len(made))
    assert np.abs(correlations).max() < 0.1
    assert abs(np.corrcoef(made[0, :-1], made[0, 1:])[0, 1]) < 0.1


def test_noise_of_an_image_does_not_depend_on_its_batch() -> None:
    key = keys(5)
    together = ops.convert_to_numpy(normal(ops.convert_to_tensor(key), 2, (3, 4)))
    assert together.shape == (5, 3, 4) and together.dtype == np.float32
    for index in range(5):
        alone = ops.convert_to_numpy(normal(ops.convert_to_tensor(key[index : index + 1]), 2, (3, 4)))
        np.testing.assert_allclose(alone[0], together[index], atol=1e-6)


def test_normal_is_finite_where_the_uniform_number_is_zero() -> None:
    """The logarithm of 0 is infinite. Key 0, counter 5297128 is where a search found the 24 bits to be 0."""
    key = ops.zeros((1, 2), "int32")
    assert ops.convert_to_numpy(uniform(key, 5297128, (1,))).item() == 0.0
    assert abs(ops.convert_to_numpy(normal(key, 5297128, (1,))).item()) < 6  # neither infinite, nor not a number


SPECS = {"x": NoiseSpec("normal", (3, 2)), "choice": NoiseSpec("uniform", (4,)), "key": NoiseSpec("key")}


def test_samples_depend_only_on_seed_and_copy() -> None:
    together = sample(SPECS, [(0, 0), (0, 1), (7, 0), (0, 0)])
    assert {name: (a.shape, a.dtype.name) for name, a in together.items()} == {
        "x": ((4, 3, 2), "float32"),
        "choice": ((4, 4), "float32"),
        "key": ((4, 2), "int32"),
    }
    for index, pair in enumerate([(0, 0), (0, 1), (7, 0)]):
        alone = sample({"key": SPECS["key"], "x": SPECS["x"]}, [pair])  # neither on other names, nor on their order
        assert np.array_equal(alone["x"][0], together["x"][index])
        assert np.array_equal(alone["key"][0], together["key"][index])
    for array in together.values():
        assert np.array_equal(array[0], array[3])
        assert len({row.tobytes() for row in array}) == 3


def test_samples_are_the_same_in_every_version() -> None:
    """Images of a seed stay what they are: a change of these numbers is a change that users see."""
    noise = sample({"x": NoiseSpec("normal", (3,)), "key": NoiseSpec("key")}, [(1, 2)])
    np.testing.assert_allclose(noise["x"][0], [-1.5687486, -0.06764563, 0.28174984], rtol=1e-6)
    assert noise["key"][0].tolist() == [2021556915, 1827801470]
    words = [0x914A47C8, 0x7E276E4A, 0x271FF886, 0x962F4BDC]  # b2sum --length=128 of "red", as little-endian words
    assert noise_keys(["red"], [7], 1) == [(7, 0, *words)]


def test_noise_keys_hold_seed_copy_and_prompt() -> None:
    red, blue = noise_keys(["red", "blue"], [3, 3], 2)[::2]
    assert red[:2] == blue[:2] == (3, 0) and red[2:] != blue[2:]
    assert noise_keys(["blue", "red"], [3, 5], 2) == [blue, (3, 1, *blue[2:]), (5, 0, *red[2:]), (5, 1, *red[2:])]
    assert noise_keys(["red", "blue", "red"], [3, 3, 3], 2)[4:] == [(3, 2, *red[2:]), (3, 3, *red[2:])]
    assert noise_keys(["red", "red"], [3, 4], 1) == [red, (4, 0, *red[2:])]  # another seed: not a further copy
    assert noise_keys(["red", "red"], [3, 3], 2, first=4) == [(3, i, *red[2:]) for i in (4, 5, 6, 7)]
    assert noise_keys(["red", "red"], [3, 3], 2, first=[1, 0]) == [(3, i, *red[2:]) for i in (1, 2, 0, 1)]
    assert noise_keys(["red", "blue"], [3, 3], 1, shared=True, first=[1, 0]) == [(3, 1), (3, 0)]
    assert noise_keys(["red", "blue", "red"], [3, 3, 4], 2, shared=True) == [
        (3, 0),
        (3, 1),
        (3, 0),
        (3, 1),
        (4, 0),
        (4, 1),
    ]


def test_noise_of_prompts_seeds_and_copies_is_independent() -> None:
    keys = noise_keys(["red", "blue", "red ", ""], [0] * 4, 2) + noise_keys(["red"], [1], 1) + [(0, 0)]
    noise = sample({"x": NoiseSpec("normal", (5000,))}, keys)["x"]
    correlations = np.corrcoef(noise) - np.eye(len(keys))
    assert np.abs(correlations).max() < 0.06  # 4 standard deviations


def test_samples_of_different_names_are_independent() -> None:
    spec = NoiseSpec("normal", (5000,))
    noise = sample({"a": spec, "b": spec}, [(0, 0)])
    assert abs(np.corrcoef(noise["a"][0], noise["b"][0])[0, 1]) < 0.05


def test_samples_have_the_distributions_of_their_specs() -> None:
    noise = sample({"n": NoiseSpec("normal", (5000,)), "u": NoiseSpec("uniform", (5000,))}, [(0, c) for c in range(4)])
    assert stats.kstest(noise["n"].ravel(), "norm").pvalue > 1e-3
    assert stats.kstest(noise["u"].ravel(), "uniform").pvalue > 1e-3
    assert noise["u"].max() < 1


def test_no_specs_give_no_samples() -> None:
    assert sample({}, [(0, 0)]) == {}


def test_the_seed_generator_is_that_of_keras_on_one_device() -> None:
    mine, theirs = SeedGenerator(5), keras.random.SeedGenerator(5)
    for _ in range(3):
        assert np.array_equal(ops.convert_to_numpy(mine.next()), ops.convert_to_numpy(theirs.next()))


def test_interpolation_keeps_normal_noise_normal() -> None:
    specs = {"z": NoiseSpec("normal", (64, 64)), "key": NoiseSpec("key"), "u": NoiseSpec("uniform", (3,))}
    first, second = sample(specs, [(0, 0)]), sample(specs, [(1, 0)])
    between = interpolate(specs, first, second, np.array([0.0, 0.25, 0.5, 1.0]))
    np.testing.assert_allclose(between["z"][0], first["z"][0], atol=1e-6)
    np.testing.assert_allclose(between["z"][3], second["z"][0], atol=1e-5)
    np.testing.assert_allclose(between["z"].std(axis=(1, 2)), 1.0, atol=0.03)  # straight lines would give 0.7 midway
    angles = [np.arccos(np.corrcoef(z.ravel(), first["z"].ravel())[0, 1]) for z in between["z"][1:]]
    np.testing.assert_allclose(angles[0] * 4, angles[2], rtol=0.02)
    for name in ("key", "u"):
        np.testing.assert_array_equal(between[name], np.repeat(first[name], 4, axis=0))


def test_interpolation_between_equal_noise_is_that_noise() -> None:
    specs = {"z": NoiseSpec("normal", (8,))}
    noise = sample(specs, [(0, 0)])
    same = interpolate(specs, noise, noise, np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(same["z"], np.repeat(noise["z"], 3, axis=0), atol=1e-6)
