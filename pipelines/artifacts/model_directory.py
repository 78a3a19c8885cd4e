"""Model directories at any location: loading them, and their identity.

A model directory holds model.safetensors and model.json (mpc_model/localizer.py). Where the output of a training stage
keeps its own says pipelines/runtime/layout.py. torch is imported when a model is loaded: a digest does not need it.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mpc_model.card import DOCUMENT, TENSORS
from mpc_model.errors import UserError
from pipelines.runtime import storage, uris

if TYPE_CHECKING:
    from mpc_model.localizer import Localizer


LARGEST = {TENSORS: 4 * 2**30, DOCUMENT: 2**20}
"""Bytes of each file, at most. Where the files are, their architecture bounds them more (mpc_model/model_files.py)."""


def load_model(uri: str, device: str = "cpu", name: str | None = None) -> "Localizer":
    """`Localizer.load` from any location; error texts say `name`, or the location, never a temporary copy.

    Of a checkpoint on S3 only the files of its model directory are fetched.
    """
    from mpc_model.localizer import Localizer

    with tempfile.TemporaryDirectory() as folder:
        local = uris.local_path(uri) if not uris.is_remote(uri) else folder
        if uris.is_remote(uri):
            for file in (TENSORS, DOCUMENT):
                location = uris.join(uri, file)
                if storage.exists(location):  # where it does not, Localizer.load says what is missing
                    _check_size(location, LARGEST[file])
                    (Path(folder) / file).write_bytes(storage.read_bytes(location))
        try:
            return Localizer.load(local, device)
        except UserError as error:
            raise UserError(str(error).replace(local, name or uri)) from None


def is_model_directory(uri: str) -> bool:
    """Whether there is a whole model directory: model.json is written last."""
    return storage.exists(uris.join(uri, DOCUMENT))


def require_head(model: "Localizer", name: str) -> None:
    """UserError where a model cannot make maps: it is an encoder of stage 1."""
    if model.spec.head is None:
        raise UserError(f"{name} is a stage-1 encoder without a head; use the output of `mpc finetune`")


def model_digest(uri: str, name: str | None = None) -> str:
    """SHA-256 of model.json, which holds the SHA-256 of the weights. UserError where there is no model directory."""
    if not is_model_directory(uri):
        raise UserError(
            f"no model directory at {name or uri}; make it by `mpc pretrain` or `mpc finetune`, or name another"
        )
    location = uris.join(uri, DOCUMENT)
    _check_size(location, LARGEST[DOCUMENT])
    return hashlib.sha256(storage.read_bytes(location)).hexdigest()


def _check_size(location: str, most: int) -> None:
    """UserError for a file that is too large to be one of a model directory; it is not read."""
    if (size := storage.stamp(location).size) > most:
        raise UserError(f"{location}: {size} bytes, a file of a model directory has {most} at most")
