"""Whose turn it is to write to the registry: one process at a time, wherever the registry is.

MLflow moves aliases and adds versions without comparing. What it does do once only, whoever asks and through whichever
server, is to make a registered model of one name: so a model named <what>.turn-000001, which exists for as long as the
turn lasts, is the turn. Whoever has it looks once more at what was decided upon before writing.
"""

import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from pipelines.model_registry import audit_trail
from pipelines.runtime import console

PATIENCE_SECONDS = 300.0
"""A turn that was left for so long has lost its holder: it takes a few requests, each tried for a minute or so."""
PAUSE_SECONDS = 0.2
_MARK = "mpc.turn"  # a tag of what was made here: nothing else is waited for, or deleted


@contextmanager
def held(registry: MlflowClient, what: str, verb: str) -> Iterator[None]:
    """Be the only one who writes to `what` (a model, or model.alias) while the block runs; waits for another's end.

    A turn that was left behind (its holder was killed in that moment) is passed over after PATIENCE_SECONDS; should
    its holder only have slept, both may write. `verb` says on the terminal who waits.
    """
    while True:
        left = _wait(registry, what, verb)
        number = 1 + max(_named(registry, what), default=0)
        said = f"{audit_trail.who()} is writing to {what}. If nobody is, delete this entry."
        try:
            made = registry.create_registered_model(_name(what, number), {_MARK: verb}, said)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            continue
        over = [number]
        try:
            if _turns(registry, what) == left | {number: made.creation_timestamp}:
                over += left
                yield
                return
        finally:
            with suppress(MlflowException):  # it must not hide a failure; the next one waits, then passes over it
                for one in over:
                    registry.delete_registered_model(_name(what, one))
        time.sleep(random.uniform(0, 2 * PAUSE_SECONDS))  # two found each other there: both step back


def _wait(registry: MlflowClient, what: str, verb: str) -> dict[int, int]:
    """Return when nobody has the turn, with those that were left behind."""
    seen, until = dict[int, int](), 0.0
    while turns := _turns(registry, what):
        if turns != seen:
            if not seen:
                console.say(f"{verb}: another one is at it ({_name(what, max(turns))}); waiting for it to be done")
            seen, until = turns, time.monotonic() + PATIENCE_SECONDS
        elif time.monotonic() > until:
            return turns
        time.sleep(PAUSE_SECONDS)
    return {}


def _turns(registry: MlflowClient, what: str) -> dict[int, int]:
    """The turns that are there: number to time of creation, which tells a new one from an old one of that number."""
    return {number: one.creation_timestamp for number, one in _named(registry, what).items() if _MARK in one.tags}


def _named(registry: MlflowClient, what: str) -> dict[int, RegisteredModel]:
    """All that is named like a turn, by number."""
    pattern = re.compile(re.escape(f"{what}.turn-") + r"(\d+)")
    found = registry.search_registered_models(f"name LIKE '{what}.turn-%'")
    return {int(match[1]): model for model in found if (match := pattern.fullmatch(model.name))}


def _name(what: str, number: int) -> str:
    return f"{what}.turn-{number:06d}"
