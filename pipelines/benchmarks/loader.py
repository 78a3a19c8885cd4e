"""The loader against torch's DataLoader: the same samples, views and symmetries, the same batches, the same two cores.

Two DataLoaders are measured. One reads a file for each image and a file for each mask, which is the usual way. The
other reads our Parquet shards, and each worker keeps as many row groups as our loader does. All three must give the
same pixels.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mpc_model.imaging import codecs, views
from pipelines.benchmarks import timing
from pipelines.config.root import Config
from pipelines.dataset import order
from pipelines.dataset.loader import SYMMETRIES, PixelLoader
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.dataset.schema import Row

SIZE, BATCH, WORKERS = 512, 8, 2
Sample = tuple[codecs.Image, codecs.Mask]
Drawn = tuple[int, int, int]
"""A sample of an epoch: a row of the split, a view of it, and one of the eight symmetries."""


def measure_loaders(config: Config, folder: Path, rounds: int) -> dict[str, Any]:
    """Samples/s of each over the training split of a dataset that is built; its views are also written to `folder`."""
    uri = str(config.build.output)
    manifest = Manifest.read(uri)
    reader = ShardReader(uri, manifest, "train")
    _export(reader, folder)
    ours = functools.partial(
        PixelLoader, uri, manifest, "train", input_size=SIZE, seed=0, batch_size=BATCH, threads=WORKERS
    )
    rivals = {"dataloader_files": _loader(_Files(folder)), "dataloader_shards": _loader(_Rows(uri, manifest))}
    epochs = [_drawn(reader, manifest, epoch) for epoch in range(rounds)]
    for name, rival in rivals.items():
        _check(ours, rival, epochs[0], name)  # starts the workers, too

    def load_ours(epoch: int) -> float:
        return timing.seconds(lambda: [len(batch.ids) for batch in ours().epoch(order.Cursor(epoch))])

    def load_theirs(rival: "DataLoader[Any]", epoch: int) -> float:
        return timing.seconds(lambda: [len(batch) for batch, _ in _epoch(rival, epochs[epoch])])

    runs = {"pixel_loader": load_ours} | {name: functools.partial(load_theirs, rival) for name, rival in rivals.items()}
    seconds = timing.alternating(rounds, runs)
    count = len(ours())
    rates = {f"{name}_samples_per_second": count / of_loader for name, of_loader in seconds.items()}
    ratio = min(seconds[name] for name in rivals) / seconds["pixel_loader"]
    return {"samples": count, **rates, "ratio_to_best_dataloader": ratio, "target": ">= 1.0"}


def _drawn(reader: ShardReader, manifest: Manifest, epoch: int) -> list[list[Drawn]]:
    """The batches of an epoch as our loader draws them with seed 0."""
    rows, groups = order.entries(reader.sizes, reader.repeats)
    (batches,) = order.epoch_batches(
        rows,
        groups,
        fingerprint=manifest.fingerprint,
        seed=0,
        cursor=order.Cursor(epoch),
        world=1,
        batch_size=BATCH,
    )

    def draw(position: int) -> Drawn:
        generator = np.random.default_rng([0, epoch, position])
        return int(rows[position]), int(generator.integers(manifest.views)), int(generator.integers(SYMMETRIES))

    return [[draw(int(position)) for position in batch] for batch in batches]


def _export(reader: ShardReader, folder: Path) -> None:
    """Write every view as two files."""
    count = itertools.count()
    for group in range(len(reader.sizes)):
        for row in reader.read(group):
            number = next(count)
            for index, view in enumerate(row["views"]):
                _file_path(folder, number, index, "image").write_bytes(view["image"])
                _file_path(folder, number, index, "mask").write_bytes(view["mask"])


def _file_path(folder: Path, row: int, view: int, what: str) -> Path:
    return folder / f"{row:06d}-{view}.{what}"


def _decoded(image_data: bytes, mask_data: bytes, symmetry: int) -> Sample:
    """Decode, resize and transform a view as PixelLoader does."""
    image, mask = codecs.decode_image(image_data, "image"), codecs.decode_mask(mask_data, "mask")
    image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
    return views.dihedral(image, mask, symmetry)


class _Files(Dataset[Sample]):
    """One file an image, one a mask."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, drawn: Drawn) -> Sample:
        row, view, symmetry = drawn
        image, mask = (_file_path(self._folder, row, view, what).read_bytes() for what in ("image", "mask"))
        return _decoded(image, mask, symmetry)


class _Rows(Dataset[Sample]):
    """Rows of our shards; each worker keeps the row groups that it read last."""

    def __init__(self, uri: str, manifest: Manifest) -> None:
        self._reader_arguments = (uri, manifest, "train")
        self._starts = np.concatenate([[0], np.cumsum(ShardReader(*self._reader_arguments).sizes)])

    def __getitem__(self, drawn: Drawn) -> Sample:
        row, view, symmetry = drawn
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        stored = self._read(group)[row - int(self._starts[group])]["views"][view]
        return _decoded(stored["image"], stored["mask"], symmetry)

    @functools.cached_property
    def _read(self) -> Callable[[int], list[Row]]:
        return functools.lru_cache(order.WINDOW + 2)(
            ShardReader(*self._reader_arguments).read
        )  # made in the worker that uses it


class _Batches:
    """A batch sampler whose batches are set before each epoch."""

    def __init__(self) -> None:
        self.epoch: list[list[Drawn]] = []

    def __iter__(self) -> Iterator[list[Drawn]]:
        return iter(self.epoch)

    def __len__(self) -> int:
        return len(self.epoch)


def _loader(dataset: Dataset[Sample]) -> "DataLoader[Any]":
    return DataLoader(
        dataset,
        batch_sampler=_Batches(),
        num_workers=WORKERS,
        persistent_workers=True,
        multiprocessing_context="spawn",
        collate_fn=_collate,
        worker_init_fn=_one_thread,
    )


def _collate(samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.from_numpy(np.stack([image for image, _ in samples])),
        torch.from_numpy(np.stack([mask for _, mask in samples])),
    )


def _one_thread(_: int) -> None:
    cv2.setNumThreads(1)


def _epoch(loader: "DataLoader[Any]", batches: list[list[Drawn]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    sampler = loader.batch_sampler
    assert isinstance(sampler, _Batches)
    sampler.epoch = batches
    yield from loader


def _check(ours: Callable[[], PixelLoader], rival: "DataLoader[Any]", batches: list[list[Drawn]], name: str) -> None:
    """Both must give the same batches; otherwise the ratio of their times would mean nothing."""
    for mine, (pictures, masks) in zip(ours().epoch(order.Cursor()), _epoch(rival, batches), strict=True):
        if not (torch.equal(mine.images, pictures) and torch.equal(mine.masks, masks)):
            raise AssertionError(f"{name} gives other batches than PixelLoader")
