"""Public checkpoints: their tensors, under the names of a localizer, read without running the pickled code.

The three kinds are recognised by their tensor names:

    stage-2   MPC, `encoder.*` and `decoder.classifier.*`, either head
    stage-1   MPC, the encoder's names without a prefix
    imagenet  HRFormer's classification weights: bare names under the key `model`, without the projections `convs.*`
"""

import hashlib
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpc_model.card import PublishedOrigin
from mpc_model.errors import UserError

INPUT_SIZE = 512
"""Side of the images that the published weights were trained on, in pixels."""

# What torch.load was seen to raise on damaged, truncated and foreign files, besides UnpicklingError.
_DAMAGED = (
    *(RuntimeError, EOFError, ValueError, LookupError, AssertionError, TypeError, AttributeError, struct.error),
    *(MemoryError, OSError, zipfile.BadZipFile),
)
LARGEST = 4 * 2**30
"""Bytes of a checkpoint file, at most; with its optimizer's state, the largest network here needs a tenth."""


@dataclass(frozen=True)
class PublishedWeights:
    """The content of a public checkpoint. `tensors` have the names of a localizer (`encoder.*`, `decoder.*`).

    `kind` is "stage-1", "stage-2" or "imagenet"; `head` is the name of the head, None where the file has none.
    """

    file: str
    sha256: str
    kind: str
    head: str | None
    tensors: dict[str, Tensor]

    def fitted_to(self, own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], PublishedOrigin]:
        """The tensors for a localizer whose state dict is `own`, and what its card says of them.

        ImageNet weights lack the projections, which are taken from `own`, and have classification layers, which are
        left out. Weights of the other kinds are returned as they are.
        """
        tensors, fresh, ignored = self.tensors, list[str](), list[str]()
        if self.kind == "imagenet":
            fresh = [name for name in own if name.startswith("encoder.convs.")]
            ignored = sorted(tensors.keys() - own.keys())
            tensors = {name: tensor for name, tensor in tensors.items() if name in own}
            tensors |= {name: own[name] for name in fresh}
        origin = PublishedOrigin(file=self.file, sha256=self.sha256, kind=self.kind, fresh=fresh, ignored=ignored)
        return tensors, origin


def read(path: str | Path) -> PublishedWeights:
    """The weights in a public checkpoint. UserError for a file that is no checkpoint, or holds pickled objects."""
    path = Path(path)
    tensors, key = _read_tensors(path)
    if tensors and all(name.startswith("module.") for name in tensors):  # saved from a DataParallel wrapper
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if any(name.startswith(("encoder.", "decoder.")) for name in tensors):
        kind, head = "stage-2", "mlp5" if "decoder.classifier.14.weight" in tensors else "mlp4"
    else:
        imagenet = key == "model" and not any(name.startswith("convs.") for name in tensors)
        kind, head = "imagenet" if imagenet else "stage-1", None
        tensors = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return PublishedWeights(path.name, digest, kind, head, tensors)


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a checkpoint and the key they were under (None: at the top). UserError where there are none."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    if (size := path.stat().st_size) > LARGEST:
        raise UserError(f"{path}: {size} bytes, a published checkpoint has {LARGEST} at most")
    try:
        _check_archive(path, size)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: not a checkpoint of plain tensors: no checkpoint at all, or one with pickled objects, which "
            "could run code and are never loaded; where you trust it, save its state_dict alone"
        ) from error
    except _DAMAGED as error:
        raise UserError(f"{path}: not a PyTorch checkpoint, or a damaged one; download it again") from error
    for key in (None, "state_dict", "model"):
        values = content if key is None else content.get(key) if isinstance(content, dict) else None
        if isinstance(values, dict) and values and all(isinstance(value, Tensor) for value in values.values()):
            return dict(values), key
    raise UserError(f"{path}: holds no tensors by name, neither at its top nor under `state_dict` or `model`")


def _check_archive(path: Path, size: int) -> None:
    """ValueError for an archive that unpacks to more than the file: PyTorch stores tensors as they are."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > size:
        raise ValueError(f"unpacks to {unpacked} bytes")
