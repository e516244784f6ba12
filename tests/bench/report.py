"""The result: rows, and a table of them in 80 columns."""

import dataclasses
import json
import math
import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio`: ours / reference. `met`: whether the target is met; None without a target.

    `note` says what the reference is; it is printed below the table.
    """

    id: str
    measure: str
    unit: str
    ours: float
    reference: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""


def quantile(samples, fraction):
    """The smallest sample that is at least as large as a `fraction` of all samples."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


def medians_and_ratio(ours, references):
    """Medians of both, and the median of the ratios of each round: in a round, both run under the same machine load."""
    ratios = [value / reference for value, reference in zip(ours, references, strict=True)]
    return statistics.median(ours), statistics.median(references), statistics.median(ratios)


def table(rows):
    head = f"{'':<4}{'measure':<32}{'ours':>9}{'reference':>13}{'ratio':>6}  {'target':<10}met"
    lines = [head, "-" * len(head)]
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    for row in rows:
        reference = "-" if row.reference is None else _formatted(row.reference, row.unit)
        mark = f" [{notes.index(row.note) + 1}]" if row.note else ""
        ratio = "" if row.ratio is None else f"{row.ratio:.{2 if row.ratio >= 0.1 else 3}f}"
        met = {True: "yes", False: "NO", None: "-"}[row.met]
        ours = _formatted(row.ours, row.unit)
        lines.append(f"{row.id:<4}{row.measure:<32}{ours:>9}{reference + mark:>13}{ratio:>6}  {row.target:<10}{met}")
    return "\n".join([*lines, *(f"[{number}] {note}" for number, note in enumerate(notes, 1))])


def as_json(rows):
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=2)


def _formatted(value, unit):
    digits = 0 if value >= 100 or unit == "" else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{unit if unit in ('', '/s', '%') else ' ' + unit}"
