"""The table of a search, `trials.csv`: a row a trial, the best first; and the same as lines for a terminal.

    trial, state, <metrics>, stage, epochs, seconds, <parameters>, reason

Each metric has a column of its own, by its name (`linear_probe_f1`, `validation_f1`): they do not compare. Tables of
earlier versions have one column, `figure`, in which both were.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress

from pipelines.runtime import storage, uris

TABLE = "trials.csv"
SHOWN = 20
"""Rows that are printed on the terminal, at most."""


def read(output: str) -> list[dict[str, str]]:
    """The rows of the table of the search at `output`; none where there is no table."""
    location = uris.join(output, TABLE)
    return parsed(storage.read_bytes(location).decode()) if storage.exists(location) else []


def parsed(text: str) -> list[dict[str, str]]:
    """The rows of the table in CSV."""
    return list(csv.DictReader(io.StringIO(text)))


def lines(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The rows for a terminal: number, state, epochs, the metrics that were reached, and the parameters."""
    if not rows:
        return []
    names = list(rows[0])
    metrics = names[names.index("state") + 1 : names.index("stage")]
    parameters = names[names.index("seconds") + 1 : -1]
    table = [("trial", "state", "epochs", *metrics, "parameters")]
    for row in rows[:SHOWN]:
        reached = (f"{float(row[name]):.4f}" if row[name] else "-" for name in metrics)
        values = ", ".join(f"{name} {_short(row[name])}" for name in parameters if row[name])
        table.append((row["trial"], row["state"], row["epochs"], *reached, values))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    shown = [
        "  ".join(cell.rjust(width) if number > 1 else cell.ljust(width) for number, (cell, width) in enumerate(pairs))
        + f"  {line[-1]}"
        for line in table
        for pairs in [list(zip(line[:-1], widths[:-1], strict=True))]
    ]
    more = len(rows) - SHOWN
    return [*shown, f"and {more} more in {TABLE}"] if more > 0 else shown


def _short(value: str) -> str:
    """A number in four digits; another value as it is."""
    with suppress(ValueError):
        return f"{float(value):.4g}"
    return value
