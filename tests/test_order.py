"""The order of the examples in training."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kgen.data import order as module
from kgen.data.order import random_numbers, training_order

pytestmark = pytest.mark.portable


@pytest.fixture(params=["sorted", "grain"])
def _kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "grain":
        monkeypatch.setattr(module, "MAX_SORTED", 0)


@pytest.mark.usefixtures("_kind")
@pytest.mark.parametrize("count", [1, 2, 23])
def test_every_pass_has_every_row_once(count: int) -> None:
    order = training_order(count, 5)
    passes = [order(range(number * count, (number + 1) * count)) for number in range(20)]
    assert all(sorted(rows) == list(range(count)) for rows in passes)
    if count == 23:
        assert len({tuple(rows) for rows in passes}) == 20
        assert training_order(count, 6)(range(count)) != passes[0]


@pytest.mark.usefixtures("_kind")
def test_a_row_depends_on_nothing_but_seed_and_position() -> None:
    whole = training_order(7, 1)(range(70))
    order = training_order(7, 1)
    assert [order([position])[0] for position in (3, 69, 0, 35, 3)] == [whole[n] for n in (3, 69, 0, 35, 3)]
    far = 10**12
    assert training_order(7, 1)([far + 1]) == training_order(7, 1)(range(far, far + 9))[1:2]


def test_all_orders_are_equally_likely() -> None:
    """Each of the 24 orders of four rows: the statistic of Pearson's test has a mean of 23 and a deviation of 6.8."""
    order = training_order(4, 0)
    counts: dict[tuple[int, ...], int] = {}
    for number in range(4800):
        rows = tuple(order(range(4 * number, 4 * number + 4)))
        counts[rows] = counts.get(rows, 0) + 1
    assert len(counts) == 24
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 23 + 4 * 6.8


def test_threads_share_an_order() -> None:
    order = training_order(11, 2)
    expected = training_order(11, 2)(range(400))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda start: order(range(start, start + 4)), range(0, 400, 4)))
    assert [row for rows in found for row in rows] == expected
    assert len(order._orders) <= module.KEPT_ORDERS  # type: ignore[attr-defined]


def test_random_numbers_are_even_and_independent_of_their_neighbors() -> None:
    numbers = random_numbers(3, range(6000))
    assert numbers.min() >= 0 and numbers.max() < 2**56
    np.testing.assert_array_equal(random_numbers(3, [17, 5]), numbers[[17, 5]])
    assert not np.array_equal(random_numbers(4, range(50)), numbers[:50])
    for modulus in (2, 3, 5):
        counts = np.bincount(numbers % modulus, minlength=modulus)
        assert np.abs(counts - 6000 / modulus).max() < 4 * np.sqrt(6000 / modulus)
    unit = numbers / 2**56
    assert abs(unit.mean() - 0.5) < 4 / np.sqrt(12 * 6000)
    assert abs(np.corrcoef(unit[:-1], unit[1:])[0, 1]) < 4 / np.sqrt(6000)
