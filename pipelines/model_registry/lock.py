"""The lock of a registered model, or of one alias: one process at a time writes to it, wherever the registry is.

MLflow moves aliases and adds versions without comparing. It makes a registered model of a given name only once, however
many ask at the same time and through whichever server. So the lock is a registered model of its own:

    <what>.turn-000001     with the tag mpc.turn, for as long as the lock is held

1. Wait until there is no such entry, or until the ones that are there did not change for PATIENCE_SECONDS.
2. Create the entry with the next number, then look again. Where an entry is there that was not seen in step 1, another
   process did the same at the same time: delete the own entry, wait for a random time and begin anew.
3. Otherwise the lock is held. Afterwards delete the own entry, and those of dead holders that step 1 found.

Whoever holds the lock reads once more what its decision rests on, and then writes.
"""

import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import TypeAlias

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from pipelines.model_registry import audit_trail
from pipelines.runtime import console, environment, lock

PATIENCE_SECONDS = environment.REGISTRY_LOCK_PATIENCE_SECONDS
"""An entry that is there for so long has lost its holder, which needs it for a few requests of a minute at most."""
PAUSE_SECONDS = environment.REGISTRY_LOCK_PAUSE_SECONDS
_TAG = "mpc.turn"  # of entries that were made here: no other is waited for, or deleted

Entries: TypeAlias = dict[int, int]
"""The entries of a lock: number to time of creation, which tells a new entry from an old one of the same number."""


@contextmanager
def held(
    registry: MlflowClient, what: str, verb: str, tags: Mapping[str, str] = MappingProxyType({})
) -> Iterator[None]:
    """Hold the lock of `what` (a model, or model.alias) while the block runs; waits until another has released it.

    The lock of a dead holder is taken over after PATIENCE_SECONDS. Should that holder only have slept, both may write.
    `verb` is the command that says on the terminal that it waits. `tags` of the entry tell others who holds it.
    """
    numbers = _acquire(registry, what, verb, tags)
    try:
        yield
    finally:
        _release(registry, what, numbers)


def _acquire(registry: MlflowClient, what: str, verb: str, tags: Mapping[str, str]) -> list[int]:
    """Acquire the lock; the numbers of the entries to delete at the end."""
    while True:
        abandoned = _wait_for_holder(registry, what, verb)
        number = 1 + max(_models(registry, what), default=0)
        description = f"{audit_trail.who()} is writing to {what}. If nobody is, delete this entry."
        try:
            created = registry.create_registered_model(_name(what, number), {**tags, _TAG: verb}, description)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            continue
        try:
            alone = _entries(registry, what) == abandoned | {number: created.creation_timestamp}
        except BaseException:
            _release(registry, what, [number])
            raise
        if alone:
            return [number, *abandoned]
        _release(registry, what, [number])
        time.sleep(random.uniform(0, 2 * PAUSE_SECONDS))


def _release(registry: MlflowClient, what: str, numbers: list[int]) -> None:
    with suppress(MlflowException):  # it must not hide a failure; the next process waits for PATIENCE_SECONDS
        for number in numbers:
            registry.delete_registered_model(_name(what, number))


def _wait_for_holder(registry: MlflowClient, what: str, verb: str) -> Entries:
    """Return when the lock is free, or its holder is dead; the entries that it left."""
    if entries := _entries(registry, what):
        name = _name(what, max(entries))
        console.say(f"{verb}: another process is writing to {what} ({name}); waiting until it is done")
    return (
        lock.wait_for_release(
            lambda: _entries(registry, what) or None, lambda entries: None, PATIENCE_SECONDS, PAUSE_SECONDS
        )
        or {}
    )


def _entries(registry: MlflowClient, what: str) -> Entries:
    return {number: model.creation_timestamp for number, model in _models(registry, what).items() if _TAG in model.tags}


def _models(registry: MlflowClient, what: str) -> dict[int, RegisteredModel]:
    """All registered models that are named like an entry of this lock, by number."""
    pattern = re.compile(re.escape(f"{what}.turn-") + r"(\d+)")
    models = registry.search_registered_models(f"name LIKE '{what}.turn-%'")
    return {int(match[1]): model for model in models if (match := pattern.fullmatch(model.name))}


def _name(what: str, number: int) -> str:
    return f"{what}.turn-{number:06d}"
