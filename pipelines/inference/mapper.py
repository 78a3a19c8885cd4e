"""The work of `mpc predict`: it reads images, writes their maps and overlays, and returns the rows of the table.

It is not in predict.py, since a worker that does not import MLflow starts three seconds sooner.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mpc_model.errors import DataError, MPCError, UnreadableFileError
from mpc_model.evaluation.class_metrics import Probabilities, most_probable
from mpc_model.evaluation.metrics import image_score
from mpc_model.imaging import codecs, drawing
from mpc_model.imaging.decoding import FIRST_OF_SEVERAL, MAX_PIXELS, Picture, read_header, read_picture
from mpc_model.localizer import Localizer, image_probability, to_probabilities
from mpc_model.nn.heads import HeadParts
from pipelines.config.root import PredictConfig
from pipelines.inference import row_store
from pipelines.inference.job import Result, Work
from pipelines.inference.map_names import map_location, overlay_location
from pipelines.inference.network import Network
from pipelines.inference.stages import in_stages
from pipelines.runtime import device, storage, unexpected
from pipelines.runtime.device import Accelerator

_STORED = 8
"""Rows that are stored at a time: a worker that is killed loses less than these, and what is in the stages."""


@dataclass(frozen=True)
class _File:
    """What was read of one image file; `error` says why there is nothing."""

    uri: str
    name: str
    key: str
    data: bytes = b""
    pixels: int = 0
    error: str | None = None


@dataclass(frozen=True)
class _Decoded:
    """The picture in a file, or why there is none."""

    file: _File
    picture: Picture | None = None
    error: str | None = None


@dataclass(frozen=True)
class MapJob:
    """The maps of images: rows of `image` (URI), `name` (map_names) and `key` in, rows of `schema` out."""

    model: Localizer
    settings: PredictConfig
    verb = "predict"

    @property
    def schema(self) -> pa.Schema:
        """The columns for this model."""
        return columns(self.model)

    def start(self, accelerator: Accelerator, cores: int) -> Work:
        """A Mapper on the device of this process."""
        model = self.model.to(device.worker_device(accelerator, self.verb))
        return Mapper(model, self.settings, device.use_cores(cores))

    def lost(self, row: pa.Table, times: int) -> pa.Table:
        """The row of an image that ended its worker so many times."""
        image, _, key = (column[0].as_py() for column in row.columns)
        reason = (
            f"{image}: its worker ended {times} times while it mapped this image, killed or crashed (memory ran out,"
            f" or a decoder failed); {_memory_remedy(self.model)}, or leave the image out"
        )
        return pa.Table.from_pylist([_failed(_File(image, "", key), reason)], self.schema)


def _memory_remedy(model: Localizer) -> str:
    more = "give workers more memory"
    return f"set predict.tile, {more}" if model.takes_tiles else more


def columns(model: Localizer) -> pa.Schema:
    """The columns of the rows of a model."""
    several = model.spec.labels if model.spec.classes > 1 else ()
    return row_store.schema(several, model.scores_images)


class Mapper:
    """Maps images, with as many threads that decode and encode as it is given.

    `settings` say output, overlays, tile, batch size and precision. Rows are stored (row_store) a few at a time, before
    they are returned.
    """

    def __init__(self, model: Localizer, settings: PredictConfig, threads: int = 2) -> None:
        self.threads = threads
        self.output, self.overlays = str(settings.output), settings.overlays
        self.spec, self.schema = model.spec, columns(model)
        self.out_of_memory = f"memory ran out; {_memory_remedy(model)}, or leave the image out"
        self.network = Network(model, settings.batch_size, settings.tile, settings.precision)
        self.part = row_store.Part(self.output, self.schema)

    def __call__(self, task: pa.Table) -> Result:
        """The rows of images, in order. An image that cannot be read has an `error`, and no map."""
        chunk = max(self.network.images, self.threads)
        wanted = [_File(row["image"], row["name"], row["key"]) for row in task.to_pylist()]
        made = in_stages(
            (file for _, file in storage.prefetch(_read, wanted, chunk)),
            chunk,
            pixels=lambda file: file.pixels,
            decode=_decode,
            infer=self._infer,
            finish=self._finish,
            threads=self.threads,
        )
        tables, rows = [self.schema.empty_table()], list[dict[str, Any]]()
        failure = None
        try:
            for row in made:
                rows.append(row)
                if len(rows) == _STORED:
                    tables.append(self._stored(rows))
                    rows = []
        except MPCError as error:
            failure = error
        try:
            tables.append(self._stored(rows))
        except MPCError as error:
            failure = failure or error
        return Result(pa.concat_tables(tables), failure)

    def _stored(self, rows: list[dict[str, Any]]) -> pa.Table:
        table = pa.Table.from_pylist(rows, self.schema)
        self.part.add(table)
        return table

    def _infer(self, decoded: list[_Decoded]) -> list[HeadParts | Exception | None]:
        """The logits of each picture, or why it has none; None where there is no picture."""
        sound = [(each.file.uri, each.picture.image) for each in decoded if each.picture]
        answers = iter(self.network.answers([image for _, image in sound], [uri for uri, _ in sound]))
        return [next(answers) if each.picture else None for each in decoded]

    def _finish(self, decoded: _Decoded, answer: HeadParts | Exception | None) -> dict[str, Any]:
        """Write the map, and the overlay, of one image. Its row; what is wrong with it, or with the name of its map, is
        the row's `error`."""
        uri, picture = decoded.file.uri, decoded.picture
        try:
            if picture is None:
                return _failed(decoded.file, str(decoded.error))
            if not isinstance(answer, HeadParts):
                return _failed(decoded.file, self._words(answer, uri))
            return self._row(decoded.file, picture, answer)
        except (DataError, UnreadableFileError) as error:
            return _failed(decoded.file, str(error))
        except (MemoryError, RuntimeError) as error:
            if not unexpected.is_memory(error):
                raise
            return _failed(decoded.file, self._words(error, uri))

    def _words(self, error: Exception | None, uri: str) -> str:
        """Why an image has no map."""
        return str(error) if isinstance(error, DataError) else f"{uri}: {self.out_of_memory}"

    def _row(self, file: _File, picture: Picture, answer: HeadParts) -> dict[str, Any]:
        image = picture.image
        probability = to_probabilities(answer.mask, image.shape[:2])[0].numpy()
        levels, numbers = self._forgery(probability) if self.spec.classes == 1 else self._classes(probability)
        location = map_location(self.output, file.name)
        storage.write_bytes(location, cv2.imencode(".png", levels)[1].tobytes())
        if self.overlays:
            overlay = codecs.encode_jpeg(self._overlay(image, probability, levels), 90)
            storage.write_bytes(overlay_location(self.output, file.name), overlay)
        return {
            "image": file.uri,
            "map": location,
            "height": image.shape[0],
            "width": image.shape[1],
            **numbers,
            **({} if answer.image is None else {"head_score": image_probability(answer.image)}),
            "error": None,
            "note": FIRST_OF_SEVERAL if picture.several else None,
            "key": file.key,
        }

    def _forgery(self, probability: npt.NDArray[np.float32]) -> tuple[codecs.Mask, dict[str, float]]:
        """The levels of the map of a model of one class, of its probabilities (H, W), and the numbers of its row."""
        levels = np.rint(probability * 255).astype(np.uint8)
        numbers = {
            "score": image_score(probability),
            "forged_fraction": float((levels > 255 * self.spec.threshold).mean()),
        }
        return levels, numbers

    def _classes(self, probabilities: Probabilities) -> tuple[codecs.Mask, dict[str, float]]:
        """The same of a model of several classes, of their probabilities (K, H, W): the levels are the classes."""
        names, labels = self.spec.labels, most_probable(probabilities)
        shares = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
        return labels, {f"share_{name}": float(share) for name, share in zip(names, shares, strict=True)}

    def _overlay(self, image: codecs.Image, probability: npt.NDArray[np.float32], levels: codecs.Mask) -> codecs.Image:
        if self.spec.classes == 1:
            threshold = self.spec.threshold
            return drawing.with_scale(drawing.overlay(image, probability, threshold), threshold)
        return drawing.class_overlay(image, levels, self.spec.labels)


def _read(file: _File) -> _File:
    """The bytes of a file, and how many pixels it will have by its header."""
    try:
        data = storage.read_bytes(file.uri)
        header = read_header(data, file.uri, MAX_PIXELS)
    except (DataError, UnreadableFileError) as error:
        return replace(file, error=str(error))
    return replace(file, data=data, pixels=header.height * header.width)


def pixels(images: Iterable[str], enough: int) -> int:
    """Pixels of images by their headers, added up until they are more than `enough`; none of one that is not read."""
    total = 0
    for image in images:
        total += _read(_File(image, "", "")).pixels
        if total > enough:
            break
    return total


def _decode(file: _File) -> _Decoded:
    if file.error:
        return _Decoded(file, error=file.error)
    without_data = replace(file, data=b"")
    try:
        return _Decoded(without_data, read_picture(file.data, file.uri))
    except DataError as failure:
        return _Decoded(without_data, error=str(failure))
    except MemoryError:
        error = f"{file.uri}: memory ran out while it was decoded; give workers more memory, or leave the image out"
        return _Decoded(without_data, error=error)


def _failed(file: _File, reason: str) -> dict[str, Any]:
    return {"image": file.uri, "error": reason, "key": file.key}
