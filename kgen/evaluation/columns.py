"""The columns of a table of results: only numbers of one protocol share a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kgen.evaluation.results import Better, Result

ERROR = "standard error"


@dataclass(frozen=True)
class Column:
    """A number that several results measure.

    Args:
        label: The label of the results: "frechet distance (holdout)".
        title: The label, with a number if another column has the same label: "frechet distance (holdout) [2]".
        better: Whether higher or lower is better; None: it is not known.
        headline: Whether this is the main number of its metric.
    """

    label: str
    title: str
    better: Better | None
    headline: bool


@dataclass(frozen=True)
class Columns:
    """The columns of several lists of results.

    Args:
        by_protocol: The columns by the label and the fingerprint of their results.
        notes: A sentence for each label that has several columns. It says how their protocols differ.
    """

    by_protocol: Mapping[tuple[str, str], Column]
    notes: Sequence[str]

    @property
    def all(self) -> list[Column]:
        """All columns, in the order of the results."""
        return list(self.by_protocol.values())

    def of(self, result: Result) -> Column:
        """The column of a result."""
        return self.by_protocol[result.label, result.fingerprint]

    def row(self, results: Sequence[Result]) -> dict[str, float]:
        """The means of results by the title of their columns, each followed by its standard error if it has one."""
        found: dict[str, float] = {}
        for result in results:
            title = self.of(result).title
            found[title] = result.mean
            if result.standard_error is not None:
                found[f"{title} {ERROR}"] = result.standard_error
        return found


def make_columns(lists: Sequence[Sequence[Result]]) -> Columns:
    """Makes the columns of several lists of results.

    Results with the same label and the same protocol share a column. If a label has several protocols, its columns are
    numbered: "frechet distance [1]", "frechet distance [2]".
    """
    protocols: dict[str, dict[str, Result]] = {}
    for result in (result for results in lists for result in results):
        protocols.setdefault(result.label, {}).setdefault(result.fingerprint, result)
    columns = {
        (label, fingerprint): Column(label, _title(label, number, found), result.better, result.headline)
        for label, found in protocols.items()
        for number, (fingerprint, result) in enumerate(found.items(), start=1)
    }
    return Columns(columns, [_note(label, found) for label, found in protocols.items() if len(found) > 1])


def _title(label: str, number: int, found: Mapping[str, Result]) -> str:
    return f"{label} [{number}]" if len(found) > 1 else label


def _note(label: str, found: Mapping[str, Result]) -> str:
    """Says how the protocols of a label differ."""
    names = [f"[{number}]" for number in range(1, len(found) + 1)]
    columns = f"{label} {', '.join(names[:-1])} and {names[-1]}"
    if "" in found:
        return f"{columns} are not comparable, because the protocol of one of them is unknown."
    protocols = [result.protocol for result in found.values()]
    keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    different = [key for key in keys if len({str(protocol.get(key, "none")) for protocol in protocols}) > 1]
    listed = "; ".join(f"{key}: {', '.join(_shown(p.get(key, 'none')) for p in protocols)}" for key in different)
    return f"{columns} are not comparable, because they differ in {listed}."


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
