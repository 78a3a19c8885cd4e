"""The trail of an alias: who moved it, when and why, never changed afterwards; and whose turn it is to move it.

Each move is a tag of the registered model, with a number of its own, written just before the alias moves:

    mpc.audit.champion.000007   {"action": "promote", "before": "3", "after": "4", "who": ..., "when": ..., "why": ...}

`after` is the version that the alias was moved to; an entry with the action "refuse" moved nothing, `after` is the
version that was refused. The same tag, with what the gates said, is on that version. Should a promotion die between
the tag and the move, the alias itself says so: it does not point where the trail ends.

MLflow moves an alias without asking where it pointed. What it does do once only, whoever asks and through whichever
server, is to make a registered model of one name: so a model named <name>.<alias>.turn-000001, which exists for the
moment of the move, is the turn (`turn`). Whoever has it looks once more at what was decided upon before writing.
"""

import getpass
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mpc_model.errors import MPCError
from pipelines import console

PROMOTE, ROLLBACK, REFUSE = "promote", "rollback", "refuse"
PATIENCE_SECONDS = 300.0
"""A turn that was left for so long has lost its holder: it takes three requests, each tried for a minute or so."""


class Refused(MPCError):
    """The question was right and the answer is no: a gate does not hold, or another promotion came first."""


@dataclass(frozen=True)
class Entry:
    """One line of the trail; versions as MLflow writes them, None where the alias pointed nowhere."""

    action: str
    before: str | None
    after: str
    who: str
    when: str
    why: str


def who() -> str:
    """user@host: the name that this process shows to the MLflow server (MLFLOW_TRACKING_USERNAME), or the system's."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if not user:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # containers may run as a number without a name
            user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    """The time, for the record only."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def trail(tags: Mapping[str, str], alias: str) -> dict[int, Entry]:
    """All entries of an alias by number, ascending, from the tags of the registered model."""
    pattern = re.compile(rf"mpc\.audit\.{re.escape(alias)}\.(\d{{6,}})")
    found = {int(match[1]): tags[key] for key in tags if (match := pattern.fullmatch(key))}
    return {number: Entry(**json.loads(found[number])) for number in sorted(found)}


def write(registry: MlflowClient, name: str, alias: str, number: int, entry: Entry, answers: Sequence[str]) -> None:
    """Add an entry; `answers`, what the gates said, goes onto the version that it is about."""
    key = f"mpc.audit.{alias}.{number:06d}"
    registry.set_registered_model_tag(name, key, json.dumps(asdict(entry)))
    registry.set_model_version_tag(name, entry.after, key, json.dumps({**asdict(entry), "gates": list(answers)}))


def before(entries: Sequence[Entry], current: str) -> str | None:
    """The version that the alias pointed to before it came to `current`, or None where the trail does not know.

    Promotions are piled up and rollbacks taken off. An entry counts only where the alias was found at its version
    afterwards: a move that died did not take place. What the trail did not see (a move by hand) drops what it left.
    """
    moves = [entry for entry in entries if entry.action != REFUSE]
    found_at = [*(entry.before for entry in moves[1:]), current]
    pile: list[str] = []
    for entry, found in zip(moves, found_at, strict=False):
        if found == entry.after:
            _drop_to(pile, entry.before)
            if entry.action == PROMOTE:
                pile.append(entry.after)
            else:
                _drop_to(pile, entry.after)
    _drop_to(pile, current)
    return pile[-2] if len(pile) > 1 else None


def _drop_to(pile: list[str], version: str | None) -> None:
    """Take off what lies above a version; where it is not there, it alone is left."""
    while pile and pile[-1] != version:
        pile.pop()
    if not pile and version is not None:
        pile.append(version)


def rolled_back(entries: Sequence[Entry], version: str) -> Entry | None:
    """The rollback that took a version away, unless it was promoted again since."""
    about = [
        entry
        for entry in entries
        if (entry.action == PROMOTE and entry.after == version)
        or (entry.action == ROLLBACK and entry.before == version)
    ]
    return about[-1] if about and about[-1].action == ROLLBACK else None


@contextmanager
def turn(registry: MlflowClient, name: str, alias: str) -> Iterator[None]:
    """Be the only one who moves an alias while the block runs; waits for another to be done.

    A turn that was left behind (its holder was killed in the moment of the move) is passed over after PATIENCE_SECONDS;
    should its holder only have slept, both may write. Refused where another came first.
    """
    prefix = f"{name}.{alias}.turn-"
    left = _wait(registry, prefix)
    number = max(left, default=0) + 1
    said = f"{who()} is moving {alias} of {name}. If nobody is, delete this entry."
    busy = f"another promotion moves {alias} of {name} at this moment; look at what it did, and run this again"
    try:
        made = registry.create_registered_model(f"{prefix}{number:06d}", description=said)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        raise Refused(busy) from None
    try:
        if _turns(registry, prefix) != left | {number: made.creation_timestamp}:
            raise Refused(busy)
        yield
    finally:
        with suppress(MlflowException):  # it must not hide a failure; the next one waits, then passes over it
            for old in [*left, number]:
                registry.delete_registered_model(f"{prefix}{old:06d}")


def _wait(registry: MlflowClient, prefix: str) -> dict[int, int]:
    """Return when nobody has the turn, with those that were left behind."""
    seen, until = dict[int, int](), 0.0
    while turns := _turns(registry, prefix):
        if turns != seen:
            if not seen:
                console.say(f"promote: another one is at it ({prefix}{max(turns):06d}); waiting for it to be done")
            seen, until = turns, time.monotonic() + PATIENCE_SECONDS
        elif time.monotonic() > until:
            return turns
        time.sleep(0.2)
    return {}


def _turns(registry: MlflowClient, prefix: str) -> dict[int, int]:
    """The turns that are there: number to time of creation, which tells a new one from an old one of that number."""
    found = registry.search_registered_models(f"name LIKE '{prefix}%'")
    return {
        int(model.name.removeprefix(prefix)): model.creation_timestamp
        for model in found
        if model.name.startswith(prefix)
    }
