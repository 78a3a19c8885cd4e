"""The localizer: image in, the probability of forgery of every pixel out; and the model directory that stores it.

With two classes or more (`ModelSpec.classes`) the probabilities of all classes come out.

A model directory holds `model.safetensors` (the tensors, `encoder.*` and `decoder.*`) and `model.json`:

    {"format": 1, "architecture": "mpc-localizer",
     "spec": {"backbone": ..., "head": ..., "input_size": ..., "threshold": ...},
     "sizes": {...},        the backbone's sizes, for the reader
     "input": "...",        how pixels become network input, for the reader
     "sha256": "...",       of model.safetensors
     "card": {...}}         where the weights come from (mpc_model/card.py)

Where the spec needs `classes` and `class_names`, or `head_settings`, it has them, too, and `format` is 2.

model.json is written last, so a directory that has it is whole. Nothing in it is pickled.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal, Self, get_args

import cv2
import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn

from mpc_model import model_files, published
from mpc_model.card import DOCUMENT, TENSORS, Card
from mpc_model.errors import DataError, UserError
from mpc_model.model_files import ARCHITECTURE
from mpc_model.model_files import ModelSpec as ModelSpec
from mpc_model.nn import (
    hrformer,  # noqa: F401  registers its backbones; the file of a new backbone is imported here, too
    mscc,  # noqa: F401  registers its heads; the file of a new head is imported here, too
    tiling,
    window_head,  # noqa: F401  a new head is imported here, too
)
from mpc_model.nn.backbone import BACKBONES, Backbone
from mpc_model.nn.heads import HeadParts, has_parts, logits_at, make_head, parts_of, scores_images, takes_tiles
from mpc_model.nn.tile_frame import Frame

BATCH_PIXELS = (tiling.TILE + 2 * tiling.HALO) ** 2  # maximum of one pass through the network
Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class Localizer(nn.Module):
    """Backbone and head. `encoder` and `decoder` are the submodules, `spec` the ModelSpec, `card` free JSON metadata.

    A new one has fresh weights, drawn from torch's global generator, and is in train mode; a loaded one in eval mode.
    """

    def __init__(self, spec: ModelSpec, card: Card | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.card: Card = card or {}
        self.encoder: Backbone = BACKBONES[spec.backbone]()
        self.decoder = None
        if spec.head is not None:
            self.decoder = make_head(spec.head, self.encoder.projection_width, spec.classes, spec.head_settings)

    def features(self, images: Tensor, frame: Frame | None = None) -> list[Tensor]:
        """(B, 3, H, W) float in [0, 1] -> four maps at strides 4, 8, 16, 32, before L2 normalisation (see Backbone)."""
        return self.encoder(images, frame)

    def forward(self, images: Tensor, frame: Frame | None = None) -> Tensor:
        """(B, 3, H, W) float in [0, 1] -> logits (B, classes, ceil(H/4), ceil(W/4)); of one class, positive = forged.

        A tile of a larger image comes with its frame there. UserError where there is no head.
        """
        return self._head()(self.features(images, frame), frame)

    def parts(self, images: Tensor) -> HeadParts:
        """All that the head makes of (B, 3, H, W) float in [0, 1]: the logits of `forward`, and what else it has."""
        head = self._head()
        return parts_of(head, self.features(images)) if has_parts(head) else HeadParts(self(images))

    def _head(self) -> nn.Module:
        if self.decoder is None:
            raise UserError(
                "this localizer has no head (a stage-1 encoder): fine-tune it first, or load stage-2 weights"
            )
        return self.decoder

    def probabilities(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, 3, H, W) float in [0, 1] -> float32 probabilities at `size`. See `to_probabilities`."""
        return to_probabilities(self(images), size)

    @property
    def default_tile(self) -> int:
        """The tile of `predict` where none is given: TILE for images of their own size, 0 for resized ones, and for a
        head that looks at an image as a whole."""
        return tiling.TILE if self.spec.input_size is None and self.takes_tiles else 0

    @property
    def takes_tiles(self) -> bool:
        """Whether a large image can be mapped in tiles: not where the head looks at an image as a whole."""
        return self.decoder is None or takes_tiles(self.decoder)

    @property
    def scores_images(self) -> bool:
        """Whether the head scores an image as a whole, beside its map."""
        return self.decoder is not None and scores_images(self.decoder)

    def check_tile(self, tile: int) -> None:
        """UserError unless `tile` can be the tile of `predict`."""
        tiling.check_tile(tile)
        if tile and not self.takes_tiles:
            raise UserError(
                f"tile is {tile}, but the head {self.spec.head} looks at an image as a whole, which cannot be mapped in"
                " tiles; leave the tile out, or give 0"
            )

    def work(self, size: tuple[int, int], tile: int) -> tuple[int, int]:
        """Pixels that an image (H, W) sends through the network, as `predict` with this tile: in all, and at once."""
        if not tile and self.spec.input_size is not None:
            return self.spec.input_size**2, self.spec.input_size**2
        return tiling.work(size, tile) if tile else (size[0] * size[1],) * 2

    @torch.inference_mode()
    def predict(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        batch_size: int = 8,
        tile: int | None = None,
        names: Sequence[str] | None = None,
        precision: Precision = "fp32",
    ) -> list[npt.NDArray[np.float32]]:
        """Probability of forgery of each pixel: uint8 RGB (H, W, 3), any sizes -> float32 (H, W) in [0, 1], same sizes.
        With K >= 2 classes their probabilities, float32 (K, H, W), which add up to 1: a pixel is of the class of the
        highest one, and the spec's threshold has no meaning.

        Input rule of the published weights: plain bilinear resize to the spec's square, values / 255, no mean or
        standard deviation. With a `tile`, images are not resized, and those of more than tile + 768 pixels a side go
        through the network in tiles (nn/tiling.py), so that memory is bounded; 0 is the spec's rule, no tiles.
        None is `default_tile`. With "bf16" the network runs under autocast; the map is float32 all the same.
        Runs in eval mode and leaves every module in the mode it was in. Several threads may call it at once for a model
        that is in eval mode, as a loaded one is. Images of the same network size share a batch, of BATCH_PIXELS at
        most; what else is in the batch does not matter. `names` are what errors call the images, `image <index>` where
        left out. UserError for anything but uint8 RGB arrays, and for a tile that cannot be (`check_tile`);
        DataError where the network's answer is not finite.
        """
        logits = self.logits(images, batch_size, tile, names, precision)
        return [
            to_probabilities(of_image, image.shape[:2])[0].cpu().numpy()
            for image, of_image in zip(images, logits, strict=True)
        ]

    @torch.inference_mode()
    def logits(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        batch_size: int = 8,
        tile: int | None = None,
        names: Sequence[str] | None = None,
        precision: Precision = "fp32",
        batch_pixels: int = BATCH_PIXELS,
    ) -> list[Tensor]:
        """What `predict` makes its maps of by `to_probabilities`: of each image (1, classes, h, w) float32, finite.

        See `answers` for the rest.
        """
        return [answer.mask for answer in self.answers(images, batch_size, tile, names, precision, batch_pixels)]

    @torch.inference_mode()
    def answers(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        batch_size: int = 8,
        tile: int | None = None,
        names: Sequence[str] | None = None,
        precision: Precision = "fp32",
        batch_pixels: int = BATCH_PIXELS,
    ) -> list[HeadParts]:
        """Of each image the logits of `logits`, and of a head that has them those of the whole image, (1, 2) float32.

        `image_probability` makes a score of the latter; an image that went through the network in tiles has none.
        They are on the model's device, those of tiled images on the CPU. The arguments and what is raised are those of
        `predict`; a batch has `batch_pixels` pixels at most, or one image. Of tiled images of the same size, tiles at
        the same place share a batch.
        """
        names = [f"image {index}" for index in range(len(images))] if names is None else names
        for image, name in zip(images, names, strict=True):
            check_image(image, name)
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: give at least 1")
        if precision not in PRECISIONS:
            raise UserError(f"precision is {precision!r:.40}: give one of {', '.join(PRECISIONS)}")
        tile = self.default_tile if tile is None else tile
        self.check_tile(tile)
        side = None if tile else self.spec.input_size
        groups: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault((image.shape[0], image.shape[1]) if side is None else (side, side), []).append(index)

        device = next(self.parameters()).device
        answers: dict[int, HeadParts] = {}
        with eval_mode(self), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            for size, members in groups.items():
                in_tiles = bool(tile) and not tiling.fits(size, tile)
                at_once = tiling.work(size, tile)[1] if in_tiles else size[0] * size[1]
                step = max(1, min(batch_size, batch_pixels // at_once))
                for start in range(0, len(members), step):
                    batch = members[start : start + step]
                    if in_tiles:
                        parts = HeadParts(tiling.tiled_logits(self, [images[i] for i in batch], tile))
                    else:
                        pixels = np.stack([cv2.resize(images[i], size[::-1]) for i in batch])  # INTER_LINEAR
                        parts = self.parts(torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255)
                    answers |= zip(batch, _of_each(parts, [names[i] for i in batch]), strict=True)
        return [answers[index] for index in range(len(images))]

    def packed(self, card: Card | None = None, state: Mapping[str, Tensor] | None = None) -> dict[str, bytes]:
        """The files of the model directory by name; model.json, which makes a folder one, comes last.

        A `card`, and a `state` (a state dict), are written instead of the localizer's own, which are not changed.
        """
        state = self.state_dict() if state is None else state
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        blob = safetensors.torch.save(tensors)
        document = {
            "format": self.spec.format,
            "architecture": ARCHITECTURE,
            "spec": self.spec.to_json(),
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
        document = model_files.read_document(folder / DOCUMENT)
        try:
            model = cls(document.spec, document.card)
        except UserError as error:
            raise UserError(f"{folder / DOCUMENT}: {error}") from error
        tensors = model_files.read_tensors(folder / TENSORS, document.sha256, model.state_dict())
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


def _of_each(parts: HeadParts, names: Sequence[str]) -> list[HeadParts]:
    """The logits of a batch (B, ...) by image, (1, ...) float32 each. DataError unless they are finite."""
    logits = parts.mask.float()
    scores = [None] * len(names) if parts.image is None else list(parts.image.float().split(1))
    _check_finite(logits, names)
    for score, name in zip(scores, names, strict=True):
        if score is not None:
            _check_finite(score, [name])
    return [HeadParts(mask, None, score) for mask, score in zip(logits.split(1), scores, strict=True)]


def _check_finite(logits: Tensor, names: Sequence[str]) -> None:
    """DataError unless the logits (B, ...) are finite: minus infinity would say "authentic"."""
    finite = logits.flatten(1).isfinite().all(1).tolist()
    for name, is_finite in zip(names, finite, strict=True):
        if not is_finite:
            raise DataError(f"{name}: the model's answer is not finite, so there is no map; use another model")


def to_probabilities(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (B, C, h, w) -> float32 probabilities at `size`: bilinear upsampling of the logits, then the sigmoid of
    the one logit, (B, *size), or the softmax of several, (B, C, *size).

    Corners are not aligned: a stride-4 logit stands for the centre of its 4x4 pixels, as a resized image's pixel does;
    aligning corners would shift the map by up to half a logit towards the borders.
    """
    upsampled = logits_at(logits, size)
    return upsampled[:, 0].sigmoid() if logits.shape[1] == 1 else upsampled.softmax(1)


def image_probability(logits: Tensor) -> float:
    """The probability that an image was forged, of the logits (1, 2) of a head for the whole image."""
    return float(logits.float().softmax(1)[0, 1])


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into `module`. UserError naming what differs unless names and shapes are exactly the module's, and
    the values finite."""
    expected = module.state_dict()
    model_files.check_shapes({name: tensor.shape for name, tensor in tensors.items()}, expected, source)
    model_files.check_values(tensors, expected, source)
    module.load_state_dict(tensors)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
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
