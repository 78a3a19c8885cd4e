"""The trail of an alias: who moved it, when and why, never changed afterwards.

Each move is a tag of the registered model, with a number of its own, written just before the alias moves:

    mpc.audit.champion.000007   {"action": "promote", "before": "3", "after": "4", "who": ..., "when": ..., "why": ...}

`after` is the version that the alias was moved to; an entry with the action "refuse" moved nothing, `after` is the
version that was refused. The same tag, with what the gates said, is on that version. Should a promotion die between
the tag and the move, the alias itself says so: it does not point where the trail ends.
"""

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from pydantic import TypeAdapter, ValidationError

from mpc_model.errors import MPCError, UserError
from pipelines.runtime import host

DESCRIBED = 10
"""Entries of each alias in the description of a registered model."""
_HEADING = "Audit trail, newest first (`mpc models` prints all of it)"
PROMOTE, ROLLBACK, REFUSE = "promote", "rollback", "refuse"


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
    user = os.environ.get("MLFLOW_TRACKING_USERNAME") or host.user()
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    """The time, for the record only."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def aliases(tags: Mapping[str, str]) -> list[str]:
    """The aliases that have a trail, by the tags of the registered model."""
    found = map(re.compile(r"mpc\.audit\.(.+)\.\d{6,}").fullmatch, tags)
    return sorted({match[1] for match in found if match})


def trail(tags: Mapping[str, str], alias: str) -> dict[int, Entry]:
    """All entries of an alias by number, ascending, from the tags of the registered model."""
    pattern = re.compile(rf"mpc\.audit\.{re.escape(alias)}\.(\d{{6,}})")
    keys = {int(match[1]): key for key in tags if (match := pattern.fullmatch(key))}
    return {number: _read(keys[number], tags[keys[number]]) for number in sorted(keys)}


def _read(key: str, value: str) -> Entry:
    try:
        return TypeAdapter(Entry).validate_json(value)
    except ValidationError:
        raise UserError(f"the tag {key} of the registered model is no entry of ours; delete it in MLflow") from None


def write(registry: MlflowClient, name: str, alias: str, number: int, entry: Entry, answers: Sequence[str]) -> None:
    """Add an entry; `answers`, the answers of the gates, go onto the version that it is about."""
    key = f"mpc.audit.{alias}.{number:06d}"
    registry.set_registered_model_tag(name, key, _line(asdict(entry)))
    registry.set_model_version_tag(name, entry.after, key, _line({**asdict(entry), "gates": list(answers)}))


def in_words(entry: Entry) -> str:
    """An entry for people, in one line."""
    before = f"version {entry.before}" if entry.before else "nowhere"
    stayed = f"stayed at {before}" if entry.before else "still points nowhere"
    moved = {
        PROMOTE: f"moved from {before} to version {entry.after}",
        ROLLBACK: f"went back from {before} to version {entry.after}",
        REFUSE: f"{stayed}, version {entry.after} was refused",
    }
    return f"{entry.when}  {moved.get(entry.action, entry.action)}  by {entry.who}: {entry.why}"


def describe(registry: MlflowClient, name: str) -> None:
    """Write the last entries of every alias into the description of a registered model, for MLflow's page of it. One
    that somebody else wrote stays."""
    model = registry.get_registered_model(name)
    if model.description and not model.description.startswith(_HEADING):
        return
    lines = [_HEADING]
    for alias in aliases(model.tags):
        entries = list(trail(model.tags, alias).values())[: -DESCRIBED - 1 : -1]
        lines += ["", f"**{alias}**", "", *(f"- {in_words(entry)[:400]}" for entry in entries)]
    registry.update_registered_model(name, "\n".join(lines)[:5000])


def _line(value: dict[str, Any]) -> str:
    """JSON in which a letter stays one letter: MLflow's column takes 5000."""
    return json.dumps(value, ensure_ascii=False)


def earlier(entries: Sequence[Entry], current: str) -> list[str]:
    """The versions that the alias pointed to before it came to `current`, the last one first, as far as is known.

    A promotion pushes its version on a stack, a rollback pops. An entry counts only if the next entry (or `current`)
    shows the alias at its version: otherwise the process died before it moved the alias. A move by hand,
    which the trail does not have, removes the versions above the one that it moved to.
    """
    moves = [entry for entry in entries if entry.action != REFUSE]
    versions_after = [*(entry.before for entry in moves[1:]), current]
    stack: list[str] = []
    for entry, version in zip(moves, versions_after, strict=False):
        if version == entry.after:
            _drop_to(stack, entry.before)
            if entry.action == PROMOTE:
                stack.append(entry.after)
            else:
                _drop_to(stack, entry.after)
    _drop_to(stack, current)
    return stack[-2::-1]


def _drop_to(stack: list[str], version: str | None) -> None:
    """Pop the versions above `version`; if it is not on the stack, it becomes the only one."""
    while stack and stack[-1] != version:
        stack.pop()
    if not stack and version is not None:
        stack.append(version)


def rolled_back(entries: Sequence[Entry], version: str) -> Entry | None:
    """The rollback that took a version away, unless it was promoted again since."""
    about = [
        entry
        for entry in entries
        if (entry.action == PROMOTE and entry.after == version)
        or (entry.action == ROLLBACK and entry.before == version)
    ]
    return about[-1] if about and about[-1].action == ROLLBACK else None
