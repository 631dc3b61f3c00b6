"""Writes numbers with few digits, for tables that people read."""

from __future__ import annotations


def few_digits(value: int | float) -> str:
    """About four digits: `0.964`, `30.23`, `169`, `1,000`. Whole numbers keep all their digits."""
    if isinstance(value, int) or abs(value) >= 100 or (abs(value) >= 10 and value.is_integer()):
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def with_error(value: float, error: float | None) -> str:
    """A mean with its standard error, such as `0.964 ± 0.012`; without one, as `few_digits`."""
    return few_digits(value) if error is None else f"{few_digits(value)} ± {few_digits(error)}"
