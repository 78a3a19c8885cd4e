"""Model directories at any location: loading, identity, and where an output keeps its model.

torch is imported when a model is loaded: its digest needs none.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mpc_model.errors import UserError
from pipelines.runtime import storage, uris

if TYPE_CHECKING:
    from mpc_model.localizer import Localizer


def load_model(uri: str, device: str = "cpu", name: str | None = None) -> "Localizer":
    """`Localizer.load` from any location; errors speak of `name`, or of the location, never of a temporary copy.

    Of a checkpoint on S3 only the files of its model directory are fetched.
    """
    from mpc_model.localizer import DOCUMENT, TENSORS, Localizer

    with tempfile.TemporaryDirectory() as folder:
        local = uris.local_path(uri) if not uris.is_remote(uri) else folder
        if uris.is_remote(uri):
            for file in (TENSORS, DOCUMENT):
                where = uris.join(uri, file)
                if storage.exists(where):  # where it does not, Localizer.load says what is missing
                    (Path(folder) / file).write_bytes(storage.read_bytes(where))
        try:
            return Localizer.load(local, device)
        except UserError as error:
            raise UserError(str(error).replace(local, name or uri)) from None


def require_head(model: "Localizer", name: str) -> None:
    """UserError where a model cannot make maps: it is an encoder of stage 1."""
    if model.spec.head is None:
        raise UserError(f"{name} is a stage-1 encoder without a head; use the output of `mpc finetune`")


def model_digest(uri: str, name: str | None = None) -> str:
    """SHA-256 of a model directory's description, which names the SHA-256 of its weights. UserError when absent."""
    if not storage.exists(uris.join(uri, "model.json")):
        raise UserError(
            f"no model directory at {name or uri}; make it by `mpc pretrain` or `mpc finetune`, or name another"
        )
    return hashlib.sha256(storage.read_bytes(uris.join(uri, "model.json"))).hexdigest()
