"""The page of a search: its ranking, what each parameter explains, its plots, and the best settings."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.artifacts import record
from pipelines.dataset import html
from pipelines.pages import files
from pipelines.runtime import storage, uris

SHOWN = 200
"""Rows of the table, at most: the best ones."""
FEW = 10
"""Trials below which shares of parameters say little."""


def page(results: Mapping[str, Any], trials: Sequence[Mapping[str, str]], plots: str, best: bytes | None) -> str:
    """The page: `results` are those of the record, `trials` the rows of trials.csv, `plots` a part of a page."""
    states = "".join(
        f"<div><b>{count:,}</b>{html.escape(state)}</div>"
        for state, count in results.get("states", {}).items()
        if count
    )
    body = [
        f"<h1>Search: {len(trials):,} trials</h1>",
        f"<div class=tiles>{states}</div>",
        "<h2>Ranking</h2>",
        "<p class=dim>Trials that were trained to their end come first. The metric of a stopped trial is that of the"
        " epoch it reached: it does not compare with theirs.</p>",
        _table(trials),
        _importances(results, len(trials)),
        f"<h2>Plots</h2>{plots}" if plots else "",
        html.preformatted("Best settings (best.yaml)", best),
    ]
    return html.document("Search", "".join(body))


def made(output: str) -> str:
    """The page of the search at `output`, from its record, trials.csv, plots and best.yaml."""
    results = record.read(output).results
    text = (storage.read_if_there(uris.join(output, "trials.csv")) or b"").decode(errors="replace")
    plots = files.pictures(output, results.get("pictures", ()))
    best = storage.read_if_there(uris.join(output, "best.yaml"))
    return page(results, list(csv.DictReader(io.StringIO(text))), plots, best)


def _table(trials: Sequence[Mapping[str, str]]) -> str:
    if not trials:
        return "<p>No trial.</p>"
    rows = [[_shown(value) for value in trial.values()] for trial in trials[:SHOWN]]
    more = f"<p class=dim>and {len(trials) - SHOWN:,} more in trials.csv</p>" if len(trials) > SHOWN else ""
    return html.table(list(trials[0]), rows, numbers_from=2) + more


def _importances(results: Mapping[str, Any], trials: int) -> str:
    shares = results.get("importances") or {}
    if not shares:
        return ""
    rows = [(key, f"{share:.0%}") for key, share in shares.items()]
    few = (
        f" {trials} trials are few: the shares of another search of this size may well differ." if trials < FEW else ""
    )
    return (
        f"<h2>What the parameters explain</h2>{html.table(('parameter', 'share of the differences'), rows)}"
        f"<p class=dim>After epoch {results.get('importances_epoch')}, by fANOVA.{few}</p>"
    )


def _shown(value: str) -> str:
    """A cell of trials.csv: numbers in four digits after the point, at most."""
    try:
        return f"{float(value):.4g}" if "." in value or "e" in value else value
    except ValueError:
        return value
