"""The page of a folder of outputs: a line for each, the newest first, with what came out."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from mpc_model.errors import MPCError
from pipelines.artifacts import record
from pipelines.dataset import html
from pipelines.dataset.manifest import Manifest
from pipelines.pages.outputs import Output
from pipelines.runtime.uris import without_secrets


def page(root: str, outputs: Sequence[Output]) -> str:
    """The page of the outputs at `root`, in their order."""
    rows = "".join(
        f'<tr><td><a href="{quote(output.name)}/">{html.escape(output.name)}</a><td>{html.escape(output.verb)}'
        f"<td>{'finished' if output.finished else '<b>not finished</b>'}<td class=n>{_time(output.changed)}"
        f"<td>{html.escape(summary(output))}</tr>"
        for output in outputs
    )
    head = "<tr><th>output<th>command<th>state<th class=n>changed (UTC)<th>what came out</tr>"
    body = (
        f"<h1>Outputs</h1><p class=dim>{html.escape(without_secrets(root))}</p>"
        f"<div class=wide><table>{head}{rows}</table></div>"
    )
    return html.document("Outputs", body)


def summary(output: Output) -> str:
    """What came out, in a few words."""
    try:
        if output.verb == "build":
            if not output.finished:
                return ""
            splits = Manifest.read(output.uri).splits
            return ", ".join(f"{name} {split.samples:,}" for name, split in splits.items())
        results = record.read(output.uri).results
    except MPCError as error:  # one damaged output does not hide the others
        return str(error)
    if "second" in results:
        verdicts = "; ".join(f"{one['name']}: {one['verdict']}" for one in results["sets"])
        return f"{results['first']} against {results['second']}" + (f"; {verdicts}" if verdicts else "")
    if sets := results.get("sets"):
        f1 = (results.get("averages") or {}).get("plain_f1")
        return f"{len(sets)} sets" + (f", mean F1 {f1:.4f}" if f1 is not None else "")
    if output.verb == "evaluate":
        return _evaluation(results)
    if history := results.get("history"):
        last = ", ".join(f"{name} {value:.4f}" for name, value in history[-1].items() if name != "train_loss")
        return f"{len(history)} epochs; last: {last}" if last else f"{len(history)} epochs"
    if "images" in results:
        return f"{results['images']:,} images"
    if best := results.get("best"):
        return f"best: trial {best['number']}" if isinstance(best, dict) else ""
    return ""


def _evaluation(results: Mapping[str, Any]) -> str:
    """F1, or the false alarms where no image is forged, or Dice of several classes; empty while it is not finished."""
    metrics = results.get("model") or {}
    metrics = {**metrics, **metrics.get("dataset_level", {})}
    names = {"f1": "F1", "false_alarm_rate": "no forged images, false alarms", "foreground_dice": "Dice"}
    found = ((title, metrics.get(name)) for name, title in names.items())
    words = next((f"{title} {value:.4f}" for title, value in found if value is not None), "")
    return words and f"{words} on {results.get('name') or results.get('split')}"


def _time(changed: int) -> str:
    return datetime.fromtimestamp(changed / 1e9, UTC).strftime("%Y-%m-%d %H:%M") if changed else ""
