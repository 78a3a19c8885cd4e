"""What the registry serves: an MLflow model made of this file and a model directory, without any pickle.

    model = mlflow.pyfunc.load_model("models:/mpc-localizer@champion")
    table = model.predict([jpeg_bytes, array, "photo.png"], params={"threshold": 0.6})   # a row an image

MLflow runs this file when it loads the model; `mpc_model` travels with it, so the consumer installs only the
requirements that the entry lists (MLflow, torch, numpy, OpenCV, Pillow, safetensors). docs/serving.md is the page of
its users.
"""

import base64
import binascii
import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT as SERVED
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

import mpc_model

try:  # Python takes these from an `mpc_model` that this process has imported before, not from the entry's copy
    from mpc_model.errors import DataError, UserError
    from mpc_model.evaluation.class_metrics import most_probable
    from mpc_model.evaluation.metrics import image_score
    from mpc_model.imaging import codecs
    from mpc_model.imaging.codecs import Image
    from mpc_model.imaging.decoding import FIRST_OF_SEVERAL, read_picture
    from mpc_model.localizer import Localizer, check_image, image_probability, to_probabilities
    from mpc_model.nn import tiling
    from mpc_model.nn.heads import HeadParts
    from mpc_model.nn.tiling import LEAST
except ImportError as error:
    raise ImportError(
        f"this process has already imported another mpc_model, from {os.path.dirname(str(mpc_model.__file__))}, with"
        f" which this entry cannot work ({error}); load the entry before that one, or in a process of its own"
    ) from error

_LOG = logging.getLogger(__name__)
Map: TypeAlias = npt.NDArray[np.float32]

COLUMN = "image"
COLUMNS = ("score", "forged_fraction", "height", "width", "map", "mask", "error")
CLASS_COLUMNS = ("shares", "height", "width", "map", "mask", "error")
"""Of a model of one class, and of one of several."""
HEAD_SCORE = "head_score"
"""A column more, where the model's head scores the image as a whole."""
ENCODINGS = ("auto", "array", "png")
SHOWN = 200  # characters of a path or base64 that an error shows
SMALLEST_FILE = 32  # bytes: no image file is smaller, but a mistyped path may be base64 of fewer
BATCH, BATCH_PIXELS = 8, 2**24  # images, and pixels, that are held decoded at once

# What one request may ask of a server. In a process of one's own nothing is bounded.
REQUEST_IMAGES = 1000
REQUEST_PIXELS = 500_000_000
"""Pixels of all images, and those that go through the network for them, each counted."""
ARRAY_COST = 100
"""A pixel of an image whose map and mask are lists of numbers counts as so many."""
PASS_PIXELS = (2048 + 2 * tiling.HALO) ** 2
"""Pixels that a parameter of a request may send through the network at once: those of a tile of 2048."""


class Server:
    """The localizer behind MLflow's interface. Several threads may call it at once."""

    def load_context(self, context: Any) -> None:
        """Load the weights that were registered, onto the GPU where there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.localizer = Localizer.load(context.artifacts["model"], device)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads hints as schema
        """A table with a row an image, in order, of the COLUMNS or CLASS_COLUMNS; where one cannot be read, all but
        `error` is None.

        model_input: images, of any sizes and kinds together, as `entries` and `read_image` take them.
        params: `threshold`, `tile` (see Localizer.predict) and `encoding` of map and mask: "array" (float32 of
        0 to 1 and uint8 of 0 and 1, both (height, width)), "png" (8-bit grey, 255 = forged, and 1-bit), or "auto":
        PNG in the answer of a server, else arrays. With K classes there is no `threshold`, `mask` has the class of each
        pixel (as PNG of 8 bits), `map` the probabilities of all, (K, height, width) (as PNG one below the other), and
        `shares` says which share of the pixels each class has. MlflowException for other values.
        """
        given = {key: value for key, value in (params or {}).items() if value is not None}
        spec = self.localizer.spec
        threshold = given.get("threshold", spec.threshold)
        tile = given.get("tile", self.localizer.default_tile)
        encoding = given.get("encoding", "auto")
        try:
            _check(given, threshold, encoding, spec.classes)
            self.localizer.check_tile(tile)
            inputs = entries(model_input)
            if SERVED.get() and len(inputs) > REQUEST_IMAGES:
                raise UserError(f"{len(inputs)} images: a request to a server may have {REQUEST_IMAGES}")
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        png = encoding == "png" or (encoding == "auto" and bool(SERVED.get()))

        columns = _column_names(self.localizer)
        rows: list[dict[str, Any]] = [dict.fromkeys(columns) for _ in inputs]
        budget = _Budget(self.localizer, tile, spec.classes * (1 if png else ARRAY_COST))
        for batch in _batches(inputs, rows, budget):
            for index, answer in self._answers(batch, rows, tile):
                rows[index] |= self._columns(answer, batch[index], threshold, png)
        return pd.DataFrame(rows, columns=columns, dtype=object)  # None stays None: NaN is not JSON

    def _answers(
        self, batch: dict[int, Image], rows: list[dict[str, Any]], tile: int
    ) -> Iterator[tuple[int, HeadParts]]:
        """The logits of a batch by their row; an image that has none leaves its error in its row."""
        names = [f"image {index}" for index in batch]
        try:
            yield from zip(batch, self.localizer.answers(list(batch.values()), tile=tile, names=names), strict=True)
        except DataError:  # one of them has no map: which, and what of the others?
            for index, image in batch.items():
                try:
                    (answer,) = self.localizer.answers([image], tile=tile, names=[f"image {index}"])
                    yield index, answer
                except DataError as error:
                    rows[index]["error"] = str(error)

    def _columns(self, answer: HeadParts, image: Image, threshold: float, png: bool) -> dict[str, Any]:
        """The columns of one image, with map and mask as PNG files if `png`, else as arrays."""
        probability = to_probabilities(answer.mask, image.shape[:2])[0].cpu().numpy()
        of_map = _of_forgery if self.localizer.spec.classes == 1 else _of_classes
        columns = of_map(probability, threshold, png, self.localizer.spec.labels)
        if answer.image is not None:
            columns[HEAD_SCORE] = image_probability(answer.image)
        return columns | {"height": image.shape[0], "width": image.shape[1]}


class RegisteredLocalizer(Server, PythonModel):
    """A class of its own, since MLflow advises type hints to one that defines `predict`; they would refuse arrays."""


def entries(model_input: Any) -> list[Any]:
    """The images one by one: of a DataFrame or dict with the column `image` (or one column), a sequence, an array
    (B, H, W, 3) or (H, W, 3), or a single image. UserError where it is not clear which column holds them.
    """
    if isinstance(model_input, pd.DataFrame | dict):
        names = list(model_input)
        if names.count(COLUMN) != 1 and len(names) != 1:
            raise UserError(
                f"the columns are {', '.join(map(str, names)) or 'none'}: give the images as one `{COLUMN}`"
            )
        return entries(model_input[COLUMN if COLUMN in names else names[0]])
    if isinstance(model_input, np.ndarray):
        if model_input.dtype.kind in "OSU":
            return list(model_input.ravel().tolist())
        return list(model_input) if model_input.ndim == 4 else [model_input]
    if isinstance(model_input, list | tuple | pd.Series):
        return list(model_input)
    return [model_input]


def read_image(entry: Any, name: str) -> Image:
    """uint8 RGB (H, W, 3) of an image file's bytes, an array, a path or URI, or the bytes in base64.

    A dict is a row of a table, with its image as `image` or alone. An array, or nested lists, holds whole numbers of 0
    to 255. A server takes no path or URI: its clients would read its files. Raises DataError, beginning with `name`,
    for what is no image.
    """
    if isinstance(entry, dict):
        if COLUMN not in entry and len(entry) != 1:
            keys = ", ".join(map(str, entry)) or "none"
            raise DataError(f"{name} has the keys {keys}: give the image as `{COLUMN}`")
        (entry,) = [entry[COLUMN]] if COLUMN in entry else entry.values()
    if isinstance(entry, str | os.PathLike):
        text = os.fsdecode(entry)
        name = f"{name} ({text if len(text) <= SHOWN else text[:SHOWN] + '...'})"
        return _read_file(_fetch(text, name), name)
    if isinstance(entry, bytes | bytearray | memoryview):
        return _read_file(bytes(entry), name)
    if not isinstance(entry, np.ndarray | list):
        raise DataError(f"{name} is a {type(entry).__name__}: give an image file's bytes, an array, a path or base64")
    try:
        array = np.asarray(entry)
        if array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255:
            array = array.astype(np.uint8, copy=False)
        check_image(array, name)
    except (UserError, ValueError) as error:  # ValueError: lists of unequal lengths
        raise DataError(str(error) if isinstance(error, UserError) else f"{name} is no array: {error}") from error
    return array


def _read_file(data: bytes, name: str) -> Image:
    """The pixels of an image file, if it is sound: the rule of `mpc build` and `mpc predict` (imaging/decoding.py)."""
    picture = read_picture(data, name)
    if picture.several:
        _LOG.warning("%s %s", name, FIRST_OF_SEVERAL)
    return picture.image


def _fetch(text: str, name: str) -> bytes:
    """The bytes that a string stands for. Raises DataError."""
    if not SERVED.get():
        if text.startswith("s3://"):
            return _fetch_s3(text, name)
        path = text
        if text[:5].lower() == "file:":
            parts = urlsplit(text)
            if parts.netloc not in ("", "localhost") or "?" in text or "#" in text:
                raise DataError(f"{name}: names another machine, or has ? or #, which a file:// URI writes %3F and %23")
            path = url2pathname(parts.path)
        if os.path.isdir(path):
            raise DataError(f"{name}: is a folder; give the images in it one by one")
        if os.path.isfile(path):  # False, too, for what is too long to be a path
            try:
                return Path(path).read_bytes()
            except OSError as error:
                raise DataError(f"{name}: cannot be read: {error.strerror}") from error
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
        if len(data) >= SMALLEST_FILE:
            return data
    except (binascii.Error, ValueError):
        pass
    expected = "base64 of an image file" if SERVED.get() else "a file, a file:// or s3:// URI, or base64"
    raise DataError(f"{name}: is not {expected}")


def _fetch_s3(uri: str, name: str) -> bytes:
    """An object of S3, by the standard AWS variables. Raises DataError."""
    try:
        from pyarrow import fs
    except ImportError as error:
        raise DataError(f"{name}: s3:// needs pyarrow (pip install pyarrow)") from error
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or (endpoint and "us-east-1")
    try:
        bucket = fs.S3FileSystem(endpoint_override=endpoint, region=region)
        with bucket.open_input_stream(uri.removeprefix("s3://")) as stream:
            return bytes(stream.read())
    except (OSError, ValueError) as error:  # ValueError: what is no path of a bucket
        raise DataError(f"{name}: cannot be read: {' '.join(str(error).split())}") from error


class _Budget:
    """What is left of REQUEST_PIXELS: each image costs those it has, and those that the network sees for it."""

    def __init__(self, localizer: Localizer, tile: int, pixel_cost: int) -> None:
        self.localizer, self.tile, self.pixel_cost = localizer, tile, pixel_cost
        self.left = REQUEST_PIXELS if SERVED.get() else math.inf
        # By a parameter of the request, or because the head looks at images of their own size as a whole.
        own_rule = tile == localizer.default_tile
        self._is_unbounded = not own_rule or (localizer.spec.input_size is None and not tile)

    def check(self, name: str) -> None:
        """DataError once it is used up: then nothing more is decoded."""
        if self.left < 0:
            raise DataError(
                f"{name}: this request asks for more work than one may ({REQUEST_PIXELS // 10**6} megapixels of images"
                " and of what the network sees); send fewer, or smaller ones, a larger tile, or encoding png"
            )

    def take(self, image: Image, name: str) -> None:
        """Take the cost of an image off. DataError where it is more than is left, or more at once than may be."""
        size = (image.shape[0], image.shape[1])
        in_all, at_once = self.localizer.work(size, self.tile)
        self.left -= size[0] * size[1] * self.pixel_cost
        if at_once > PASS_PIXELS and math.isfinite(self.left) and self._is_unbounded:
            remedy = f"give a tile of {LEAST} to 2048" if self.localizer.default_tile else "send a smaller image"
            raise DataError(f"{name}: {at_once} pixels go through the network at once; {remedy}")
        self.left -= in_all
        self.check(name)


def _batches(inputs: list[Any], rows: list[dict[str, Any]], budget: _Budget) -> Iterator[dict[int, Image]]:
    """Decoded images by their row, a few at a time; what cannot be read leaves its error in its row."""
    batch: dict[int, Image] = {}
    for index, entry in enumerate(inputs):
        name = f"image {index}"
        try:
            budget.check(name)
            image = read_image(entry, name)
            budget.take(image, name)
            batch[index] = image
        except DataError as error:
            rows[index]["error"] = str(error)
        if len(batch) == BATCH or sum(image.size // 3 for image in batch.values()) >= BATCH_PIXELS:
            yield batch
            batch = {}
    if batch:
        yield batch


def _column_names(localizer: Localizer) -> tuple[str, ...]:
    """The columns of the table of a model; register.signature lists them, too."""
    names = COLUMNS if localizer.spec.classes == 1 else CLASS_COLUMNS
    return (names[0], HEAD_SCORE, *names[1:]) if localizer.scores_images else names


def _of_forgery(probability: Map, threshold: float, png: bool, names: Sequence[str]) -> dict[str, Any]:
    """The columns that one map of a model of one class (H, W) gives."""
    mask = (probability > threshold).astype(np.uint8)
    columns = {"score": image_score(probability), "forged_fraction": float(mask.mean())}
    if not png:
        return {**columns, "map": probability, "mask": mask}
    return {**columns, "map": _levels(probability), "mask": codecs.encode_mask(mask)}


def _of_classes(probabilities: Map, threshold: float, png: bool, names: Sequence[str]) -> dict[str, Any]:
    """The columns that one map of a model of several classes (K, H, W) gives; they have no threshold."""
    labels = most_probable(probabilities)
    shares = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
    columns = {"shares": dict(zip(names, shares.tolist(), strict=True))}
    if not png:
        return {**columns, "map": probabilities, "mask": labels}
    return {
        **columns,
        "map": _levels(probabilities.reshape(-1, probabilities.shape[2])),
        "mask": cv2.imencode(".png", labels)[1].tobytes(),
    }


def _levels(probability: Map) -> bytes:
    """Probabilities (H, W) as a PNG of 8-bit grey."""
    return bytes(cv2.imencode(".png", np.rint(probability * 255).astype(np.uint8))[1])


def _check(given: dict[str, Any], threshold: Any, encoding: object, classes: int) -> None:
    """UserError for parameters that cannot be. MLflow has left out, with a warning, those that the signature lacks."""
    *others, last = ("threshold", "tile", "encoding") if classes == 1 else ("tile", "encoding")
    if unknown := given.keys() - {*others, last}:
        raise UserError(f"unknown parameter {min(unknown)!r:.80}: give {', '.join(others)} or {last}")
    if isinstance(threshold, bool) or not isinstance(threshold, float | int) or not 0 < threshold < 1:
        raise UserError(f"threshold is {threshold!r:.40}: give a probability above 0 and below 1")
    if encoding not in ENCODINGS:
        raise UserError(f"encoding is {encoding!r:.40}: give one of {', '.join(ENCODINGS)}")


set_model(RegisteredLocalizer())
