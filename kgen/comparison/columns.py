"""The columns of scores in a comparison: only numbers of one protocol share a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kgen.evaluation.results import Result

ERROR = "standard error"
"""The end of the name of a column with the standard errors of the column before it."""


@dataclass(frozen=True)
class Columns:
    """The scores of several runs.

    Args:
        rows: The scores of each run by the name of their column.
        notes: A sentence per label that has several columns, which says in what the protocols differ.
    """

    rows: Sequence[Mapping[str, float]]
    notes: Sequence[str]


def score_columns(runs: Sequence[Sequence[Result]]) -> Columns:
    """Arranges the results of each run in columns.

    Results with the same label and protocol share a column. If a label has several protocols, its columns are numbered:
    "frechet distance [1]", "frechet distance [2]". The mean over the seeds is in the column, and its standard error, if
    there is one, in another column.
    """
    protocols: dict[str, dict[str, Result]] = {}
    for result in (result for results in runs for result in results):
        protocols.setdefault(result.label, {}).setdefault(result.fingerprint, result)
    rows = []
    for results in runs:
        row: dict[str, float] = {}
        for result in results:
            column = _column(result, protocols[result.label])
            row[column] = result.mean
            if result.standard_error is not None:
                row[f"{column} {ERROR}"] = result.standard_error
        rows.append(row)
    return Columns(rows, [_note(label, found) for label, found in protocols.items() if len(found) > 1])


def _column(result: Result, found: Mapping[str, Result]) -> str:
    if len(found) == 1:
        return result.label
    return f"{result.label} [{list(found).index(result.fingerprint) + 1}]"


def _note(label: str, found: Mapping[str, Result]) -> str:
    """A sentence about the columns of a label: the keys of the protocols that differ, with their values in order."""
    names = [f"[{number}]" for number in range(1, len(found) + 1)]
    columns = f"{label} {', '.join(names[:-1])} and {names[-1]}"
    if "" in found:
        return f"{columns} do not compare, because the protocol of one of them is unknown."
    protocols = [result.protocol for result in found.values()]
    keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    different = [key for key in keys if len({str(protocol.get(key, "none")) for protocol in protocols}) > 1]
    listed = "; ".join(f"{key}: {', '.join(_shown(p.get(key, 'none')) for p in protocols)}" for key in different)
    return f"{columns} do not compare, because they differ in {listed}."


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
