"""The record of every output: what it was made from, whether it is finished, and its results.

    <uri>/record.json   {"verb", "identity": {...}, "finished": bool, "results": {...}}
    <uri>/config.yaml   the resolved config

A command reuses its own finished output, continues its own unfinished output, and refuses the output of another.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mpc_model.errors import UserError
from pipelines.artifacts import results
from pipelines.runtime import documents, storage, uris, written_yaml

RECORD = "record.json"


class _Document(TypedDict):
    """What record.json holds."""

    verb: Annotated[str, Field(pattern="^[a-z-]{1,20}$")]
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
        """Write the record."""
        document = {key: getattr(self, key) for key in ("verb", "identity", "finished", "results")}
        storage.write_bytes(uris.join(self.uri, RECORD), json.dumps(document, indent=1).encode() + b"\n")

    def reopen(self) -> None:
        """Mark a complete output as one that is worked on again."""
        if self.finished:
            self.finished = False
            self.save()

    def finish(self, **results: Any) -> None:
        """Mark the output as complete, with its results."""
        self.results.update(results)
        self.finished = True
        self.save()


def claim(uri: str, verb: str, identity: dict[str, Any], settings: dict[str, Any]) -> Record:
    """Open an output folder for a command, and save the resolved config (`settings`) next to the record.

    Raises UserError when the folder holds another output (the message names the first setting that differs), or files
    that no command of ours wrote (it names one of them).
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
    storage.write_bytes(uris.join(uri, "config.yaml"), written_yaml.dump(settings).encode())
    record.save()
    return record


def finished(uri: str, verb: str, identity: Callable[[], dict[str, Any]]) -> Record | None:
    """The record of a finished output of a command with this identity; None where there is none.

    `identity` is called only where a finished output of the command is there: it may read digests.
    """
    if not storage.exists(uris.join(uri, RECORD)):
        return None
    record = read(uri)
    if record.verb != verb or not record.finished:
        return None
    return record if record.identity == json.loads(json.dumps(identity())) else None


def check_free(uri: str, verb: str) -> None:
    """Raise UserError, which names a file, if a folder without a record holds files that no command of ours wrote."""
    ours = ("config.yaml", "lease/")  # left by a command that died before it wrote its record
    files = storage.list_files(uri) if storage.folder_exists(uri) else []
    if strange := [file for file in files if not file[len(uri) :].lstrip("/").startswith(ours)]:
        raise UserError(f"{uri} holds {strange[0]}, which is not of {verb}; set {verb}.output to an empty folder")


def read(uri: str) -> Record:
    """The record of an output folder; UserError when there is none."""
    location = uris.join(uri, RECORD)
    if not storage.exists(location):
        raise UserError(f"{uri} is not the output of a command of ours: it has no {RECORD}")
    try:
        document = documents.parse(storage.read_bytes(location), _DOCUMENT, finite=False)
        stored = document["results"]
        schema = results.finished(document["verb"], stored) if document["finished"] else results.BEGUN
        schema.validate_python(stored, strict=True)
        return Record(uri, **document)
    except documents.InvalidDocument as error:
        reason = str(error)
    except ValidationError as error:
        reason = f"results.{documents.reason(error)}"
    raise UserError(f"{location} is damaged ({reason}); delete {uri} and run the command again")


def run_of(uri: str) -> tuple[str, str] | None:
    """Verb and id of the MLflow run that made an output; None where it is not known."""
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
