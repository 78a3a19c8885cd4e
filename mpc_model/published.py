"""Public checkpoints: read without running their pickled code, checked tensor by tensor, given back as a Localizer.

Three kinds are told apart by their tensor names:

    stage-2   MPC, `encoder.*` and `decoder.classifier.*`, either head
    stage-1   MPC, the encoder's bare names
    imagenet  HRFormer's classification weights: bare names under the key `model`, without the projections `convs.*`
"""

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpc_model.errors import UserError
from mpc_model.localizer import Localizer, ModelSpec, load_tensors

PUBLISHED = "published"
"""In a model's card: the public checkpoint that its weights are, or began as."""
INPUT_SIZE = 512  # pixels a side: what the published weights were trained on

# What torch.load was seen to raise on damaged, truncated and foreign files, besides UnpicklingError.
_DAMAGED = (RuntimeError, EOFError, ValueError, LookupError, AssertionError, TypeError, AttributeError, struct.error)


def load_published(path: str | Path, backbone: str = "hrformer_base", device: str | torch.device = "cpu") -> Localizer:
    """The localizer in a public checkpoint, in eval mode, with input_size 512 and threshold 0.5.

    Stage-1 and ImageNet files give a localizer without a head. The projections, which ImageNet files lack, are
    initialised freshly (from torch's global generator), and their classification layers are ignored.
    `card["published"]` says what was read: file, sha256, kind, and the names of `fresh` and `ignored` tensors.
    UserError for a file that is no checkpoint, holds pickled code, or does not fit `backbone` exactly.
    """
    path = Path(path)
    tensors, key = _read(path)
    if tensors and all(name.startswith("module.") for name in tensors):  # saved from a DataParallel wrapper
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}

    fresh: list[str] = []
    ignored: list[str] = []
    if any(name.startswith(("encoder.", "decoder.")) for name in tensors):
        kind = "stage-2"
        head = "mlp5" if "decoder.classifier.14.weight" in tensors else "mlp4"
    else:
        imagenet = key == "model" and not any(name.startswith("convs.") for name in tensors)
        kind, head = "imagenet" if imagenet else "stage-1", None
        tensors = {f"encoder.{name}": tensor for name, tensor in tensors.items()}

    model = Localizer(ModelSpec(backbone, head, INPUT_SIZE))
    if kind == "imagenet":
        own = model.state_dict()
        fresh = [name for name in own if name.startswith("encoder.convs.")]
        ignored = sorted(tensors.keys() - own.keys())
        tensors = {name: tensor for name, tensor in tensors.items() if name in own}
        tensors |= {name: own[name] for name in fresh}
    load_tensors(model, tensors, str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    model.card = {PUBLISHED: {"file": path.name, "sha256": digest, "kind": kind, "fresh": fresh, "ignored": ignored}}
    return model.to(device).eval()


def _read(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a checkpoint and the key they were under (None: at the top). UserError where there are none."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: not a checkpoint of plain tensors: no checkpoint at all, or one with pickled objects, which "
            "could run code and are never loaded; where you trust it, save its state_dict alone"
        ) from error
    except _DAMAGED as error:
        raise UserError(f"{path}: not a PyTorch checkpoint, or a damaged one; download it again") from error
    for key in (None, "state_dict", "model"):
        found = content if key is None else content.get(key) if isinstance(content, dict) else None
        if isinstance(found, dict) and found and all(isinstance(value, Tensor) for value in found.values()):
            return dict(found), key
    raise UserError(f"{path}: holds no tensors by name, neither at its top nor under `state_dict` or `model`")
