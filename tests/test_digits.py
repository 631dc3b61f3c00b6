"""Numbers in tables that people read."""

from __future__ import annotations

import pytest

from kgen.reporting.digits import few_digits


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.96364, "0.964"),
        (1.0, "1.000"),
        (-0.5, "-0.500"),
        (10.0, "10"),
        (30.2291, "30.23"),
        (99.996, "100.00"),
        (169.21, "169"),
        (1000.0, "1,000"),
        (2401, "2,401"),
        (7, "7"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_few_digits(value: float, text: str) -> None:
    assert few_digits(value) == text
