"""The record beside every output: what it was made from, whether it is finished, and what came out.

    <uri>/record.json   {"verb", "identity": {...}, "finished": bool, "results": {...}}
    <uri>/config.yaml   the resolved config

A command that finds its own finished output reuses it, one that finds its own unfinished output goes on with it, and
one that finds another's refuses to touch it.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mpc_model.errors import UserError
from pipelines.runtime import storage, uris

RECORD = "record.json"


class _Document(TypedDict):
    """What record.json holds."""

    verb: str
    identity: dict[str, Any]
    finished: bool
    results: dict[str, Any]


_DOCUMENT = TypeAdapter(_Document)


@dataclass
class Record:
    """The state of one output folder. `identity` holds everything that changes the result."""

    uri: str
    verb: str
    identity: dict[str, Any]
    finished: bool = False
    results: dict[str, Any] = field(default_factory=dict)
    resumed: bool = False

    def save(self) -> None:
        """Write the record as it now stands."""
        document = {key: getattr(self, key) for key in ("verb", "identity", "finished", "results")}
        storage.write_bytes(uris.join(self.uri, RECORD), json.dumps(document, indent=1).encode() + b"\n")

    def finish(self, **results: Any) -> None:
        """Mark the output as complete, with its results."""
        self.results.update(results)
        self.finished = True
        self.save()


def claim(uri: str, verb: str, identity: dict[str, Any], settings: dict[str, Any]) -> Record:
    """Open an output folder for a command, with the resolved config (`settings`) saved beside the record.

    Raises UserError, naming the first setting that differs, when the folder holds the output of something else, or
    naming a file of it where it is of no command of ours.
    """
    identity = json.loads(json.dumps(identity))
    if storage.exists(uris.join(uri, RECORD)):
        existing = read(uri)
        differing = _first_difference(existing.identity, identity) if existing.verb == verb else "verb"
        if differing:
            raise UserError(
                f"{uri} holds the output of `mpc {existing.verb}` with other settings ({differing} differs);"
                f" name another {verb}.output, or delete it"
            )
        existing.resumed = not existing.finished
        return existing
    check_free(uri, verb)
    record = Record(uri, verb, identity)
    text = yaml.safe_dump(settings, sort_keys=False)
    storage.write_bytes(uris.join(uri, "config.yaml"), text.encode())
    record.save()
    return record


def finished(uri: str, verb: str, identity: dict[str, Any]) -> Record | None:
    """The record of a finished output of a command with this identity; None where there is none."""
    if not storage.exists(uris.join(uri, RECORD)):
        return None
    record = read(uri)
    is_same = record.verb == verb and record.identity == json.loads(json.dumps(identity))
    return record if is_same and record.finished else None


def check_free(uri: str, verb: str) -> None:
    """UserError, naming a file, where a folder without a record holds what is of no command of ours."""
    ours = ("config.yaml", "lease/")  # of a command that died before its record was there
    held = storage.list_files(uri) if storage.folder_exists(uri) else []
    if strange := [file for file in held if not file[len(uri) :].lstrip("/").startswith(ours)]:
        raise UserError(f"{uri} holds {strange[0]}, which is not of {verb}; set {verb}.output to an empty folder")


def read(uri: str) -> Record:
    """The record of an output folder; UserError when there is none."""
    location = uris.join(uri, RECORD)
    if not storage.exists(location):
        raise UserError(f"{uri} is not the output of a command of ours: it has no {RECORD}")
    try:
        document = _DOCUMENT.validate_json(storage.read_bytes(location), strict=True)
        return Record(uri, **document)
    except ValidationError:
        raise UserError(f"{location} is damaged; delete {uri} and run the command again") from None


def run_of(uri: str) -> tuple[str, str] | None:
    """Verb and id of the MLflow run that made an output, where that is known."""
    if not storage.exists(uris.join(uri, RECORD)):
        return None
    record = read(uri)
    return (record.verb, record.results["run_id"]) if "run_id" in record.results else None


def _first_difference(stored: Any, wanted: Any, key: str = "") -> str:
    """Dotted name of the first value that differs, or an empty string."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for name in sorted(stored.keys() | wanted.keys()):
            below = _first_difference(stored.get(name), wanted.get(name), f"{key}.{name}" if key else name)
            if below:
                return below
        return ""
    return "" if stored == wanted else key
