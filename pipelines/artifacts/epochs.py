"""What training stores of each epoch besides its metrics: its pace, and the validation samples that it does worst on.

<output>/epochs/00001.json    one file an epoch, which nothing but the page of the training reads
"""

import json
from contextlib import suppress
from typing import Annotated

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from mpc_model.errors import InfrastructureError, UserError
from pipelines.runtime import console, documents, storage, uris
from pipelines.runtime.documents import Count

FOLDER = "epochs"
HARDEST = 16
"""Samples of an epoch that are stored, at most."""
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class HardSample(TypedDict):
    """A validation sample: its id, its row in the validation split, and its F1."""

    id: str
    row: Count
    f1: _Finite


class Epoch(TypedDict):
    """An epoch, from 1. `learning_rate` is that of its last step, `images_per_second` the pace of all ranks together
    since the epoch began, or was resumed. `hardest` are validation samples, the worst first; empty where a stage
    measures none by itself."""

    epoch: Annotated[int, Field(ge=1)]
    step: Count
    learning_rate: _Finite
    images_per_second: _Finite
    hardest: list[HardSample]


_EPOCH = TypeAdapter(Epoch)


def write(output: str, epoch: Epoch, verb: str) -> None:
    """Store an epoch; a warning of the command `verb` where storage fails or refuses: only a page needs it."""
    location = uris.join(output, FOLDER, f"{epoch['epoch']:05d}.json")
    try:
        storage.write_bytes(location, json.dumps(epoch, indent=1).encode() + b"\n")
    except (InfrastructureError, UserError) as error:
        console.warn(f"{verb}: what its page shows of epoch {epoch['epoch']} is not stored: {error}")


def read(output: str) -> list[Epoch]:
    """The epochs that are stored, in their order; one whose file is damaged is left out."""
    folder = uris.join(output, FOLDER)
    if not storage.folder_exists(folder):
        return []
    found = []
    for _, data in storage.prefetch(storage.read_if_there, storage.list_files(folder, (".json",))):
        with suppress(documents.InvalidDocument):
            found.append(documents.parse(data or b"", _EPOCH))
    return found
