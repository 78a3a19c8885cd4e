"""The two files of a model directory, read as a stranger's: they are checked before anything is allocated for them.

`model.json` is small, strict JSON with the keys of mpc_model/localizer.py. A key that this version does not know is
refused: a later version that adds one raises `format`. The card alone may hold keys of its own. The size of
`model.safetensors` is bounded by the architecture that model.json names, and its header is compared with that
architecture before a tensor is made.
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from mpc_model.card import DOCUMENT, Card, check_card
from mpc_model.classes import FORGERY, check_classes, class_labels
from mpc_model.errors import UserError

FORMAT, ADDED_FORMAT = 1, 2
"""Of a model.json as the first version wrote it, and of one whose spec has some of ADDED."""
ADDED = ("classes", "class_names", "head_settings")
"""Keys of a spec that are there only where the model needs them: several classes, settings of its head."""
ARCHITECTURE = "mpc-localizer"
KEYS = ("format", "architecture", "spec", "sizes", "input", "sha256", "card")
"""Of model.json; `sizes` and `input` are for the reader, and may be missing."""
INPUT_SIZES = (32, 4096)
"""The least and the largest `input_size`, in pixels a side."""
DOCUMENT_BYTES = 2**20
"""The largest model.json. Those that training writes have a few kilobytes."""
DTYPES = ("F16", "BF16", "F32", "F64", "I8", "I16", "I32", "I64", "U8")
"""Of tensors in model.safetensors; `fit` says which may stand for which."""
_HEADER_BYTES, _NAME_BYTES, _ELEMENT_BYTES = 2**16, 512, 8
"""A header has so many bytes at most, and so many more for each tensor; an element has so many."""
SHOWN = 5
"""How many tensor names an error lists."""
_DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class ModelSpec:
    """What rebuilds a localizer. UserError where a value cannot be.

    backbone, head: names in BACKBONES and HEADS; head None is a stage-1 encoder, which gives features only.
    input_size: images are resized to this square, in pixels, plainly (aspect ignored); None keeps their own size.
    threshold: probability above which a pixel counts as forged. With several classes a pixel is of the class of the
        highest probability, so there is no threshold, and the value stays 0.5.
    classes: 1 is one logit a pixel, of forgery; from 2 on there are so many, and their softmax is the probabilities.
    class_names: of several classes, in the order of their labels; empty, they are called by their numbers.
    head_settings: what the head is made with besides, by the names that it gives to its settings (nn/heads.py).
    """

    backbone: str
    head: str | None
    input_size: int | None
    threshold: float = _DEFAULT_THRESHOLD
    classes: int = 1
    class_names: tuple[str, ...] = ()
    head_settings: Mapping[str, bool | int | float | str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        size, threshold = self.input_size, self.threshold
        least, most = INPUT_SIZES
        if size is not None and (type(size) is not int or not least <= size <= most):
            raise UserError(
                f"input_size is {size!r:.40}: give a whole number of pixels from {least} to {most}, or None for native"
                " size"
            )
        if type(threshold) not in (int, float) or not 0 < threshold < 1:
            raise UserError(f"threshold is {threshold!r:.40}: give a probability above 0 and below 1")
        check_classes(self.classes, self.class_names)
        _check_settings(self.head, self.head_settings)
        if self.classes > 1 and threshold != _DEFAULT_THRESHOLD:
            raise UserError(
                f"threshold is {threshold!r:.40}: a localizer of {self.classes} classes has none, a pixel is of the"
                f" class of the highest probability; leave it at {_DEFAULT_THRESHOLD}"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """What the values of a mask are called, from 0 on: authentic and forged where there is one class."""
        return class_labels(self.classes, self.class_names)

    @property
    def of_forgeries(self) -> bool:
        """Whether pixels are authentic or forged: by one logit, or by the softmax of two classes of these names."""
        return self.labels == FORGERY

    def to_json(self) -> dict[str, Any]:
        """The spec as model.json has it: of ADDED with those keys alone that the model needs."""
        values = asdict(self) | {"class_names": list(self.class_names)}
        if self.classes == 1:
            del values["classes"], values["class_names"]
        if not self.head_settings:
            del values["head_settings"]
        return values

    @property
    def format(self) -> int:
        """The `format` of a model.json with this spec."""
        return ADDED_FORMAT if set(ADDED) & self.to_json().keys() else FORMAT


def _check_settings(head: str | None, settings: object) -> None:
    """UserError unless settings of a head have the form of such; which there are, the head itself says."""
    if not isinstance(settings, dict):
        raise UserError(f"head_settings is {settings!r:.40}: give a mapping from names to values")
    if settings and head is None:
        raise UserError("head_settings are of a head, and there is none: leave them out")
    for name, value in settings.items():
        if not isinstance(name, str) or not isinstance(value, bool | int | float | str):
            raise UserError(
                f"head_settings has {name!r:.40}: {value!r:.40}: give a name and a number, a text or a bool"
            )


@dataclass(frozen=True)
class ModelDocument:
    """What model.json says, checked. `sha256` is of model.safetensors."""

    spec: ModelSpec
    sha256: str
    card: Card


def read_document(path: Path) -> ModelDocument:
    """model.json. UserError unless it is one that this version reads."""
    if (size := path.stat().st_size) > DOCUMENT_BYTES:
        raise UserError(f"{path}: {size} bytes, a {DOCUMENT} has {DOCUMENT_BYTES} at most")
    try:
        document = _parsed(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({str(error)[:200]})") from error
    if not isinstance(document, dict) or document.get("architecture") != ARCHITECTURE:
        raise UserError(f"{path}: not the model.json of an {ARCHITECTURE} model")
    if type(document.get("format")) is not int or document["format"] not in (FORMAT, ADDED_FORMAT):
        stated = repr(document.get("format"))[:40]
        raise UserError(
            f"{path}: format {stated}, this version reads {FORMAT} and {ADDED_FORMAT}: upgrade mpc-localizer"
        )
    try:
        return _document(document)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: incomplete or altered ({str(error)[:200]}); save the model again") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _document(document: dict[str, Any]) -> ModelDocument:
    """The checked content. Raises TypeError or ValueError for what has another form, UserError for a spec's value."""
    if unknown := document.keys() - set(KEYS):
        raise ValueError(f"unknown key {min(unknown)[:40]!r}")
    spec, sha256, card = (document.get(key) for key in ("spec", "sha256", "card"))
    if not isinstance(spec, dict):
        raise ValueError("spec is no object")
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError("sha256 is not 64 hexadecimal digits")
    if not isinstance(document.get("sizes", {}), dict) or not isinstance(document.get("input", ""), str):
        raise ValueError("sizes is no object, or input no text")
    return ModelDocument(_spec(spec, document["format"]), sha256, check_card(card))


def _spec(values: dict[str, Any], stated: int) -> ModelSpec:
    """The spec in a document of a format. Raises TypeError or ValueError for other keys, UserError for a value."""
    names = values.get("class_names", [])
    if not isinstance(names, list):
        raise ValueError("spec.class_names is no list")
    spec = ModelSpec(**values | {"class_names": tuple(names)})
    for key in ADDED:
        if (key in values) != (key in spec.to_json()):
            raise ValueError(f"spec {'has' if key in values else 'lacks'} {key}, which its other keys do not go with")
    if stated != spec.format:
        raise ValueError(f"format {stated}, with a spec of format {spec.format}")
    return spec


def _parsed(data: bytes) -> Any:
    """JSON whose objects have each key once. Raises ValueError, or RecursionError for what is nested too deep."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice[:40]!r} is there twice")
        return document

    return json.loads(data, object_pairs_hook=unique)


def read_tensors(path: Path, sha256: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of model.safetensors, for an architecture whose state dict is `expected`.

    UserError for a file that is larger than this architecture can need, has another SHA-256, or does not `fit`.
    """
    header_bytes = _HEADER_BYTES + _NAME_BYTES * len(expected)
    most = header_bytes + _ELEMENT_BYTES * sum(tensor.numel() for tensor in expected.values())
    with open(path, "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise UserError(f"{path}: {size} bytes, the architecture in {DOCUMENT} has {most} at most")
        blob = file.read(most)
    if hashlib.sha256(blob).hexdigest() != sha256:
        raise UserError(f"{path}: sha256 is not the one in {DOCUMENT}: damaged, or a save cut short; copy it anew")
    try:
        (length,) = struct.unpack("<Q", blob[:8])
        if length > header_bytes:
            raise ValueError(f"a header of {length} bytes")
        header = _parsed(blob[8 : 8 + length])
        shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
        dtypes = {name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
        foreign = sorted(name for name, dtype in dtypes.items() if dtype not in DTYPES)
        if foreign:
            raise ValueError(f"{named('of a dtype that is not read', foreign)}; those that are: {', '.join(DTYPES)}")
        check_shapes(shapes, expected, str(path))
        return safetensors.torch.load(blob)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error) as error:
        raise UserError(f"{path}: not a safetensors file ({' '.join(str(error).split())[:300]})") from error


def check_shapes(shapes: Mapping[str, Sequence[int]], expected: Mapping[str, Tensor], source: str) -> None:
    """UserError, beginning with `source`, unless names and shapes are those of the state dict `expected`."""
    reshaped = [
        f"{name} {list(shapes[name])!s:.80} for {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in shapes and list(shapes[name]) != list(tensor.shape)
    ]
    kinds = {
        "missing": sorted(expected.keys() - shapes.keys()),
        "unexpected": sorted(shapes.keys() - expected.keys()),
        "of another shape": sorted(reshaped),
    }
    problems = [named(kind, names) for kind, names in kinds.items() if names]
    if problems:
        raise UserError(f"{source}: its tensors do not fit this architecture: {'; '.join(problems)}")


def check_values(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """UserError, beginning with `source`, for tensors of the right names and shapes that no network can have.

    Those are numbers of another kind (whole for real, complex, quantized, sparse); real numbers that are not finite in
    the dtype of `expected`; and constants of the architecture (whole numbers that count nothing) that were changed.
    """
    other, endless, changed = list[str](), list[str](), list[str]()
    for name, own in expected.items():
        tensor = tensors[name]
        real, plain = own.is_floating_point(), tensor.layout == own.layout and tensor.device.type != "meta"
        if not plain or tensor.is_quantized or tensor.is_complex() or real != tensor.is_floating_point():
            other.append(name)
        elif real and not tensor.to(own.dtype).isfinite().all():
            endless.append(name)
        elif not real and own.ndim and not tensor.equal(own.to(tensor)):
            changed.append(name)
    if other:
        raise UserError(f"{source}: {named('with numbers of another kind', other)}; save the weights anew")
    if endless:
        raise UserError(
            f"{source}: its weights are not finite: {named('with NaN or infinity', endless)}; the training diverged, or"
            " the file is damaged: use another checkpoint or copy"
        )
    if changed:
        raise UserError(f"{source}: {named('that the architecture sets were altered', changed)}; copy the file anew")


def named(kind: str, names: Sequence[str]) -> str:
    """How many tensors are of a kind, with the names of the first."""
    shown = ", ".join(
        "".join(letter if letter.isprintable() else "?" for letter in name[:120]) for name in names[:SHOWN]
    )
    return f"{len(names)} {kind} ({shown}{', ...' if len(names) > SHOWN else ''})"
