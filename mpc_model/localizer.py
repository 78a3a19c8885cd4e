"""The localizer: image in, forgery probability of every pixel out; and the model directory that stores it.

A model directory holds `model.safetensors` (the tensors, `encoder.*` and `decoder.*`) and `model.json`:

    {"format": 1, "architecture": "mpc-localizer",
     "spec": {"backbone": ..., "head": ..., "input_size": ..., "threshold": ...},
     "sizes": {...},        the backbone's sizes, for the reader
     "input": "...",        how pixels become network input, for the reader
     "sha256": "...",       of model.safetensors
     "card": {...}}         where the weights come from (mpc_model/card.py)

model.json is written last, so a directory that has it is whole. Nothing in it is pickled.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from mpc_model import published
from mpc_model.card import DOCUMENT, TENSORS, Card
from mpc_model.errors import UserError
from mpc_model.nn import (
    hrformer,  # noqa: F401  registers its backbones; the file of a new backbone is imported here, too
    tiling,
)
from mpc_model.nn.backbone import BACKBONES, Backbone
from mpc_model.nn.heads import HEADS
from mpc_model.nn.tile_frame import Frame

FORMAT = 1
ARCHITECTURE = "mpc-localizer"
BATCH_PIXELS = (tiling.TILE + 2 * tiling.HALO) ** 2  # maximum of one pass through the network
SHOWN = 5  # how many differing tensor names an error lists


@dataclass(frozen=True)
class ModelSpec:
    """What rebuilds a localizer. UserError where a value cannot be.

    backbone, head: names in BACKBONES and HEADS; head None is a stage-1 encoder, which gives features only.
    input_size: images are resized to this square, in pixels, plainly (aspect ignored); None keeps their own size.
    threshold: probability above which a pixel counts as forged.
    """

    backbone: str
    head: str | None
    input_size: int | None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        size, threshold = self.input_size, self.threshold
        if size is not None and (not isinstance(size, int) or size < 32):
            raise UserError(
                f"input_size is {size!r}: give a whole number of pixels from 32 up, or None for native size"
            )
        if not isinstance(threshold, int | float) or not 0 < threshold < 1:
            raise UserError(f"threshold is {threshold!r}: give a probability above 0 and below 1")


class Localizer(nn.Module):
    """Backbone and head. `encoder` and `decoder` are the submodules, `spec` the ModelSpec, `card` free JSON metadata.

    A new one has fresh weights, drawn from torch's global generator, and is in train mode; a loaded one in eval mode.
    """

    def __init__(self, spec: ModelSpec, card: Card | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.card: Card = card or {}
        self.encoder: Backbone = BACKBONES[spec.backbone]()
        self.decoder = None if spec.head is None else HEADS[spec.head](self.encoder.projection_width)

    def features(self, images: Tensor, frame: Frame | None = None) -> list[Tensor]:
        """(B, 3, H, W) float in [0, 1] -> four maps at strides 4, 8, 16, 32, before L2 normalisation (see Backbone)."""
        return self.encoder(images, frame)

    def forward(self, images: Tensor, frame: Frame | None = None) -> Tensor:
        """(B, 3, H, W) float in [0, 1] -> logits (B, 1, ceil(H/4), ceil(W/4)), positive = forged.

        A tile of a larger image comes with its frame there. UserError where there is no head.
        """
        if self.decoder is None:
            raise UserError(
                "this localizer has no head (a stage-1 encoder): fine-tune it first, or load stage-2 weights"
            )
        return self.decoder(self.features(images, frame), frame)

    def probabilities(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, 3, H, W) float in [0, 1] -> probability of forgery (B, *size) float32. See `to_probabilities`."""
        return to_probabilities(self(images), size)

    @property
    def default_tile(self) -> int:
        """The tile of `predict` where none is given: TILE for images of their own size, 0 for resized ones."""
        return tiling.TILE if self.spec.input_size is None else 0

    @torch.inference_mode()
    def predict(
        self, images: Sequence[npt.NDArray[np.uint8]], batch_size: int = 8, tile: int | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """Probability of forgery of each pixel: uint8 RGB (H, W, 3), any sizes -> float32 (H, W) in [0, 1], same sizes.

        Input rule of the published weights: plain bilinear resize to the spec's square, values / 255, no mean or
        standard deviation. With a `tile`, images are not resized, and those of more than tile + 768 pixels a side go
        through the network in tiles (nn/tiling.py), so that memory is bounded; 0 is the spec's rule, no tiles.
        None is `default_tile`.
        Runs in eval mode and leaves every module in the mode it was in. Several threads may call it at once for a model
        that is in eval mode, as a loaded one is. Images of the same network size share a batch, of BATCH_PIXELS at
        most; what else is in the batch does not matter. UserError for anything but uint8 RGB arrays.
        """
        for index, image in enumerate(images):
            check_image(image, f"image {index}")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: give at least 1")
        tile = self.default_tile if tile is None else tile
        tiling.check_tile(tile)
        side = None if tile else self.spec.input_size
        large = {index for index, image in enumerate(images) if tile and not tiling.fits(image, tile)}
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            if index not in large:
                groups.setdefault(image.shape[:2] if side is None else (side, side), []).append(index)

        device = next(self.parameters()).device
        maps: dict[int, npt.NDArray[np.float32]] = {}
        with _eval_mode(self):
            for index in large:
                logits = tiling.tiled_logits(self, images[index], tile)
                maps[index] = to_probabilities(logits, images[index].shape[:2])[0].numpy()
            for (height, width), members in groups.items():
                step = max(1, min(batch_size, BATCH_PIXELS // (height * width)))
                for start in range(0, len(members), step):
                    batch = members[start : start + step]
                    pixels = np.stack([cv2.resize(images[i], (width, height)) for i in batch])  # INTER_LINEAR
                    logits = self(torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255)
                    for i, map_logits in zip(batch, logits, strict=True):
                        own_size = images[i].shape[:2]
                        maps[i] = to_probabilities(map_logits[None], own_size)[0].cpu().numpy()
        return [maps[index] for index in range(len(images))]

    def packed(self, card: Card | None = None) -> dict[str, bytes]:
        """The files of the model directory by name; model.json, which makes a folder one, comes last.

        A `card` is written instead of the localizer's own, which is not changed.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        blob = safetensors.torch.save(tensors)
        document = {
            "format": FORMAT,
            "architecture": ARCHITECTURE,
            "spec": asdict(self.spec),
            "sizes": asdict(self.encoder.spec),
            "input": f"RGB / 255, {_size_rule(self.spec.input_size)}, no mean or standard deviation",
            "sha256": hashlib.sha256(blob).hexdigest(),
            "card": self.card if card is None else card,
        }
        text = json.dumps(document, indent=2, sort_keys=True) + "\n"
        return {TENSORS: blob, DOCUMENT: text.encode()}

    def save(self, directory: str | Path) -> None:
        """Write the model directory (made where absent). Each file appears whole or not at all, model.json last."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.packed().items():
            _write_atomically(folder / name, content)

    @classmethod
    def load(cls, directory: str | Path, device: str | torch.device = "cpu") -> Self:
        """The localizer in a model directory, in eval mode. UserError unless the directory is whole and fits."""
        folder = Path(directory)
        if not folder.is_dir():
            raise UserError(f"{directory}: no such model directory on this machine")
        for name in (DOCUMENT, TENSORS):
            if not (folder / name).is_file():
                raise UserError(f"{directory}: not a model directory, it lacks {name}")
        document = _read_document(folder / DOCUMENT)
        blob = (folder / TENSORS).read_bytes()
        if hashlib.sha256(blob).hexdigest() != document["sha256"]:
            raise UserError(
                f"{folder / TENSORS}: sha256 is not the one in {DOCUMENT}: damaged, or a save cut short; copy it anew"
            )
        try:
            tensors = safetensors.torch.load(blob)
        except SafetensorError as error:
            raise UserError(f"{folder / TENSORS}: not a safetensors file ({error})") from error
        model = cls(document["spec"], document["card"])
        load_tensors(model, tensors, str(folder / TENSORS))
        return model.to(device).eval()

    @classmethod
    def from_published(
        cls, path: str | Path, backbone: str = "hrformer_base", device: str | torch.device = "cpu"
    ) -> Self:
        """The localizer in a public checkpoint, in eval mode, with input_size 512 and threshold 0.5.

        A stage-1 or ImageNet file gives a localizer without a head. The projections, which ImageNet files lack, are
        initialised freshly (from torch's global generator), and their classification layers are ignored.
        `card["published"]` says what was read. UserError for a file that is no checkpoint, holds pickled code, or does
        not fit `backbone` exactly.
        """
        weights = published.read(path)
        model = cls(ModelSpec(backbone, weights.head, published.INPUT_SIZE))
        tensors, origin = weights.fitted_to(model.state_dict())
        load_tensors(model, tensors, str(path))
        model.card = {"published": origin}
        return model.to(device).eval()


def to_probabilities(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (B, 1, h, w) -> float32 probabilities (B, *size): bilinear upsampling of the logits, then the sigmoid.

    Corners are not aligned: a stride-4 logit stands for the centre of its 4x4 pixels, as a resized image's pixel does;
    aligning corners would shift the map by up to half a logit towards the borders.
    """
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)[:, 0].sigmoid()


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into `module`. UserError naming what differs unless names and shapes are exactly the module's."""
    expected = module.state_dict()
    reshaped = [
        f"{name} {list(tensors[name].shape)} for {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for kind, names in (
            ("missing", sorted(expected.keys() - tensors.keys())),
            ("unexpected", sorted(tensors.keys() - expected.keys())),
            ("of another shape", sorted(reshaped)),
        )
        if names
    ]
    if problems:
        raise UserError(f"{source}: its tensors do not fit this architecture: {'; '.join(problems)}")
    module.load_state_dict(tensors)


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each submodule is as it was (a frozen encoder may differ from its head)."""
    training = [part for part in module.modules() if part.training]
    for part in training:  # none in a loaded model: threads that share it write nothing
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _size_rule(input_size: int | None) -> str:
    return "native size" if input_size is None else f"bilinear resize to {input_size} x {input_size}"


def check_image(image: object, name: str) -> None:
    """UserError, beginning with `name`, for anything but a uint8 RGB array (H, W, 3)."""
    if not isinstance(image, np.ndarray):
        raise UserError(f"{name} is a {type(image).__name__}: give a numpy array, uint8 RGB (H, W, 3)")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise UserError(f"{name} is {image.dtype} {image.shape}: give uint8 RGB (H, W, 3)")


def _write_atomically(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _read_document(path: Path) -> dict[str, Any]:
    """model.json with its spec as a ModelSpec; UserError unless it is one that this version reads."""
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict) or document.get("architecture") != ARCHITECTURE:
        raise UserError(f"{path}: not the model.json of an {ARCHITECTURE} model")
    if document.get("format") != FORMAT:
        raise UserError(
            f"{path}: format {document.get('format')!r}, this version reads {FORMAT}: upgrade mpc-localizer"
        )
    try:
        document["spec"] = ModelSpec(**document["spec"])
        _, _ = document["sha256"], document["card"]
    except (TypeError, KeyError) as error:
        raise UserError(f"{path}: incomplete or altered ({error}); save the model again") from error
    return document
