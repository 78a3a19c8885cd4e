"""The outputs of commands at a location, and the page of each: the one that it has, or else one that is made now.

Nothing is written. An output is known by its record.json, a pixel dataset by its manifest.json.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mpc_model.errors import UserError
from pipelines.artifacts import record
from pipelines.dataset import html
from pipelines.dataset.manifest import FILE_NAME as MANIFEST
from pipelines.pages import dataset, evaluation, files, predictions_output, search, training
from pipelines.runtime import storage, uris

_STORED = {"build": "report.html", "evaluate": "report.html", "compare": "comparison.html", "predict": "index.html"}
"""The page that a finished output has, by command."""
_MADE: dict[str, Callable[[str], str]] = {
    "build": dataset.made,
    "evaluate": evaluation.made,
    "predict": predictions_output.made,
    "tune": search.made,
    "pretrain": training.made,
    "finetune": training.made,
    "adapt": training.made,
}
"""What makes the page of an output, by command."""
_WHILE_IT_RUNS = ("pretrain", "finetune", "adapt")
"""Commands whose page says something before the output is finished."""


@dataclass(frozen=True)
class Output:
    """An output: its path below the location that is viewed (empty for that itself), where it is, the command that made
    it, whether it is finished, and when it was changed (ns, 0 where that is not known)."""

    name: str
    uri: str
    verb: str
    finished: bool
    changed: int = 0


def find(root: str) -> list[Output]:
    """The output at a location, or those in the folder, the newest first. Outputs within others (the trials of a
    search) are not among them. UserError where there is none."""
    if known := _recognised(root, ""):
        return [known]
    changed = dict[str, int]()
    for location, stamp in storage.list_stamps(root).items():
        name = location[len(uris.absolute(root)) :].lstrip("/")
        folder, _, file = name.rpartition("/")
        if file in (record.RECORD, MANIFEST):
            changed[folder] = max(stamp.mtime_ns, changed.get(folder, 0))
        elif folder.endswith("/shards") or folder == "shards":
            changed.setdefault(folder.removesuffix("shards").rstrip("/"), stamp.mtime_ns)
    outer = [name for name in changed if not any(name.startswith(f"{other}/") for other in changed)]
    outputs = [_listed(uris.join(root, name), name, changed[name]) for name in outer]
    if not outputs:
        raise UserError(
            f"there is nothing to view at {root}: it is no output of a command, and none is in it; name an output, such"
            " as runs/mine/evaluate, or a folder of outputs"
        )
    return sorted((one for one in outputs if one), key=lambda one: (-one.changed, one.name))


def page(output: Output) -> bytes:
    """The page of an output. UserError and DataError where its files are damaged."""
    stored = _STORED.get(output.verb)
    if stored and output.finished and (data := storage.read_if_there(uris.join(output.uri, stored))):
        return data
    if output.verb not in _MADE or not (output.finished or output.verb in _WHILE_IT_RUNS):
        return _files_page(output).encode()
    return _MADE[output.verb](output.uri).encode()


def _listed(uri: str, name: str, changed: int) -> Output | None:
    """An output of a folder. One whose record is damaged is listed, too: it does not hide the others."""
    try:
        return _recognised(uri, name, changed)
    except UserError:
        return Output(name, uri, "unknown", False, changed)


def _recognised(uri: str, name: str, changed: int = 0) -> Output | None:
    if storage.exists(uris.join(uri, record.RECORD)):
        known = record.read(uri)
        return Output(name, uri, known.verb, known.finished, changed)
    if storage.exists(uris.join(uri, MANIFEST)):
        return Output(name, uri, "build", True, changed)
    if storage.folder_exists(uris.join(uri, "shards")):
        return Output(name, uri, "build", False, changed)
    return None


def _files_page(output: Output) -> str:
    """What is there of an output that has no page yet: how many files in which folder, and its settings."""
    counts = dict[str, int]()
    for location in storage.list_files(output.uri):
        folder = location[len(uris.absolute(output.uri)) :].lstrip("/").rpartition("/")[0]
        first = folder.partition("/")[0] or "(here)"
        counts[first] = counts.get(first, 0) + 1
    title = f"mpc {output.verb}"
    state = "" if output.finished else " It is not finished: run the same command again, which goes on from here."
    rows = [(folder, f"{count:,}") for folder, count in sorted(counts.items())]
    body = (
        f"<h1>{html.escape(title)}</h1><p class=dim>{html.escape(uris.without_secrets(output.uri))}</p>"
        f"<div class=first><p>This output has no page.{state}</p></div>"
        f"<h2>Files</h2>{html.table(('folder', 'files'), rows)}{files.settings(output.uri)}"
    )
    return html.document(title, body)
