"""From a pixel dataset to batches: decoded ahead of the training step, in the dataset's order, from any cursor.

The loader needs neither Ray nor a local copy of the dataset: row groups are read as the order reaches them, and at most
a window of them is held.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch

from mpc_model.errors import DataError
from mpc_model.imaging import codecs, symmetries
from pipelines.dataset import order
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader, decode_view
from pipelines.dataset.schema import Row

IGNORE = codecs.IGNORED
SYMMETRIES = 8
"""The symmetries of the square, as `symmetries.dihedral` numbers them; 0 changes nothing."""


class DeviceBatch(NamedTuple):
    """A batch on its device: images float32 (B, 3, H, W) in [0, 1], masks uint8 (B, H, W) of 0, 1 and 255 = ignore.

    `second_images` and `second_masks` are another view of the same samples, None where the loader draws no pairs;
    `keys` name the stored views that `images` shows.
    """

    images: torch.Tensor
    masks: torch.Tensor
    second_images: torch.Tensor | None = None
    second_masks: torch.Tensor | None = None
    keys: Sequence[str] = ()


@dataclass(frozen=True)
class Batch:
    """A batch as it is loaded: images uint8 (B, H, W, 3), masks uint8 (B, H, W) of 0, 1 and 255 = ignore.

    `ids` are those of the samples, `keys` name the stored view that each image shows ("<row>-<view>"). `progress` is
    the share of the epoch that all ranks have done after this batch. `second_images` and `second_masks` are another
    view of each sample, None where the loader draws no pairs.
    """

    images: torch.Tensor
    masks: torch.Tensor
    ids: list[str]
    progress: float
    keys: list[str]
    second_images: torch.Tensor | None = None
    second_masks: torch.Tensor | None = None

    def to(self, device: torch.device) -> DeviceBatch:
        """The batch as a network takes it.

        The conversion runs in the caller's thread. In the loader's threads, torch operations would each start a pool of
        threads of their own, and slow the training step by half.
        """
        return DeviceBatch(
            scaled(self.images, device),
            self.masks.to(device),
            None if self.second_images is None else scaled(self.second_images, device),
            None if self.second_masks is None else self.second_masks.to(device),
            self.keys,
        )


def scaled(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [0, 1] on a device."""
    return images.to(device).permute(0, 3, 1, 2).float() / 255


class _DecodedView(NamedTuple):
    """One stored view of a sample at the input size, in one of the eight symmetries."""

    image: codecs.Image
    mask: codecs.Mask
    id: str
    key: str


class PixelLoader:
    """Batches of one split for one rank.

    Each sample comes in a stored view and in one of the eight symmetries of the square, both drawn from (seed, epoch,
    position). With `symmetries` off, views come as they are stored. With `pairs`, a second view of each sample is drawn
    too: always another stored view than the first, in a symmetry of its own.
    """

    def __init__(
        self,
        uri: str,
        manifest: Manifest,
        split: str,
        *,
        input_size: int,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
        symmetries: bool = True,
        pairs: bool = False,
    ) -> None:
        self._reader = ShardReader(uri, manifest, split)
        self._fingerprint, self._views = manifest.fingerprint, manifest.views
        self._authentic = manifest.splits[split].samples - manifest.splits[split].forged
        self._uri = uri
        self._input_size, self._seed, self._threads = input_size, seed, threads
        self._symmetries, self._pairs = symmetries, pairs
        self.rank, self.world, self.batch_size = rank, world, batch_size
        self._rows, self._groups = order.entries(self._reader.sizes, self._reader.repeats)
        self._starts = np.concatenate([[0], np.cumsum(self._reader.sizes)])
        self._held: OrderedDict[int, list[Row]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Samples in an epoch, repetitions counted."""
        return len(self._rows)

    def epoch(self, cursor: order.Cursor) -> Iterator[Batch]:
        """What is left of the cursor's epoch: every rank yields the same number of batches."""
        rank_batches = order.epoch_batches(
            self._rows,
            self._groups,
            fingerprint=self._fingerprint,
            seed=self._seed,
            cursor=cursor,
            world=self.world,
            batch_size=self.batch_size,
        )
        step_sizes = [sum(map(len, of_step)) for of_step in zip(*rank_batches, strict=True)]
        done = np.cumsum(step_sizes)

        def remaining_after(step: int) -> int:
            return int(done[-1] - done[step])

        pending: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="loader") as pool:
            try:
                for step, positions in enumerate(rank_batches[self.rank]):
                    progress = 1 - remaining_after(step) / len(self)
                    pending.append(pool.submit(self._batch, positions, cursor.epoch, progress))
                    if len(pending) > 2 * self._threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def fixed(self, count: int) -> list[Batch]:
        """Canonical views of about `count` samples, half of them forged where there are as many: always the same ones.

        Row groups are searched in a fixed shuffled order until there are enough.
        """
        wanted = {True: max(1, count // 2), False: min(count - count // 2, self._authentic)}
        chosen: list[int] = []
        for group in np.random.default_rng(0).permutation(len(self._reader.sizes)):
            for offset, row in enumerate(self._reader.read(int(group), ("kind",))):
                forged = row["kind"] != "authentic"
                if wanted[forged]:
                    wanted[forged] -= 1
                    chosen.append(int(self._starts[group]) + offset)
            if not any(wanted.values()):
                break
        if not chosen:
            raise DataError(f"the kinds of the samples of {self._uri} are not those that its manifest counts")
        parts = np.array_split(np.sort(chosen), -(-len(chosen) // self.batch_size))
        return [self._collate([self._decode(int(row), 0, 0) for row in part], 1.0) for part in parts]

    def _batch(self, positions: order.Rows, epoch: int, progress: float) -> Batch:
        if not len(positions):
            # A rank without a sample in an epoch's last step still takes the step, with a sample that is ignored.
            sample = self._decode(0, 0, 0)
            ignored = sample._replace(mask=np.full_like(sample.mask, IGNORE))
            return self._collate([ignored], progress, [ignored] if self._pairs else [])
        first, second = list[_DecodedView](), list[_DecodedView]()
        for position in positions:
            row = int(self._rows[position])
            generator = np.random.default_rng([self._seed, epoch, int(position)])
            view = int(generator.integers(self._views))
            first.append(self._decode(row, view, self._symmetry(generator)))
            if self._pairs:
                other = (view + 1 + int(generator.integers(self._views - 1))) % self._views
                second.append(self._decode(row, other, self._symmetry(generator)))
        return self._collate(first, progress, second)

    def _symmetry(self, generator: np.random.Generator) -> int:
        return int(generator.integers(SYMMETRIES)) if self._symmetries else 0

    def _row(self, number: int) -> Row:
        """A row of the split by its number; its row group stays in memory while the order's window needs it."""
        group = int(np.searchsorted(self._starts, number, side="right")) - 1
        with self._lock:
            if group not in self._held:
                self._held[group] = self._reader.read(group)
                while len(self._held) > order.WINDOW + 2:
                    self._held.popitem(last=False)
            self._held.move_to_end(group)
            return self._held[group][number - int(self._starts[group])]

    def _decode(self, number: int, view: int, symmetry: int) -> _DecodedView:
        row = self._row(number)
        image, mask = decode_view(row["views"][view], f"sample {row['id']} of {self._uri}")
        size = (self._input_size, self._input_size)
        if image.shape[:2] != size:
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        return _DecodedView(*symmetries.dihedral(image, mask, symmetry), row["id"], f"{number}-{view}")

    @staticmethod
    def _collate(samples: list[_DecodedView], progress: float, second: Sequence[_DecodedView] = ()) -> Batch:
        images, masks = _stacked(samples)
        second_images, second_masks = _stacked(second) if second else (None, None)
        return Batch(
            images,
            masks,
            ids=[sample.id for sample in samples],
            progress=progress,
            keys=[sample.key for sample in samples],
            second_images=second_images,
            second_masks=second_masks,
        )


def _stacked(samples: Sequence[_DecodedView]) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.from_numpy(np.stack([sample.image for sample in samples])),
        torch.from_numpy(np.stack([sample.mask for sample in samples])),
    )
