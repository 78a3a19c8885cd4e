"""From a pixel dataset to batches: decoded ahead of the training step, in the contract's order, from any cursor.

Needs neither Ray nor a local copy: row groups are read as the order reaches them, and at most a window of them is held.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from mpc_model.imaging import codecs as images
from mpc_model.imaging import views
from pipelines.dataset import order
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader

IGNORE = 255


class Inputs(NamedTuple):
    """A batch on its device: images float32 (B, 3, H, W) in [0, 1], masks uint8 (B, H, W) of 0, 1 and 255 = ignore.

    `second_images` and `second_masks` are another view of the same samples, None unless it was asked for; `keys` name
    the stored views that `images` shows.
    """

    images: torch.Tensor
    masks: torch.Tensor
    second_images: torch.Tensor | None = None
    second_masks: torch.Tensor | None = None
    keys: Sequence[str] = ()


@dataclass(frozen=True)
class Batch:
    """`images` uint8 (B, H, W, 3), `masks` uint8 (B, H, W) of 0, 1 and 255 = ignore, `ids` of the samples.

    `keys` name the stored view that each image shows, `second` holds images and masks of another view of each sample
    where it was asked for. `progress` is the share of the epoch that is behind us after this batch, over all ranks.
    """

    images: torch.Tensor
    masks: torch.Tensor
    ids: list[str]
    progress: float
    keys: list[str]
    second: tuple[torch.Tensor, torch.Tensor] | None = None

    def on(self, device: torch.device) -> Inputs:
        """The batch as the network takes it.

        The conversion is left to the caller's thread: torch operations in loader threads would each bring their own
        pool of threads, and slow the training step by half.
        """
        pictures, masks = self.second or (None, None)
        return Inputs(
            scaled(self.images, device),
            self.masks.to(device),
            None if pictures is None else scaled(pictures, device),
            None if masks is None else masks.to(device),
            self.keys,
        )


def scaled(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [0, 1] on a device."""
    return images.to(device).permute(0, 3, 1, 2).float() / 255


class _Shown(NamedTuple):
    """One sample as the network will see it."""

    image: images.Image
    mask: images.Mask
    id: str
    key: str


class PixelLoader:
    """Batches of one split for one rank.

    Each sample comes in a stored view and a turn (one of the eight symmetries) drawn from (seed, epoch, position).
    With `turns` off, views come as they are stored. With `pairs`, a second view of each sample is drawn too, another
    one than the first, with a turn of its own.
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
        turns: bool = True,
        pairs: bool = False,
    ) -> None:
        self._reader = ShardReader(uri, manifest, split)
        self._fingerprint, self._views = manifest.fingerprint, manifest.views
        self._authentic = manifest.splits[split].samples - manifest.splits[split].forged
        self._uri = uri
        self._input_size, self._seed, self._threads = input_size, seed, threads
        self._turns, self._pairs = turns, pairs
        self.rank, self.world, self.batch_size = rank, world, batch_size
        self._rows, self._groups = order.entries(self._reader.sizes, self._reader.repeats)
        self._starts = np.concatenate([[0], np.cumsum(self._reader.sizes)])
        self._held: OrderedDict[int, list[dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Samples in an epoch, repetitions counted."""
        return len(self._rows)

    def epoch(self, cursor: order.Cursor) -> Iterator[Batch]:
        """What is left of the cursor's epoch: every rank yields the same number of batches."""
        lanes = order.epoch_batches(
            self._rows,
            self._groups,
            fingerprint=self._fingerprint,
            seed=self._seed,
            cursor=cursor,
            world=self.world,
            batch_size=self.batch_size,
        )
        left = np.cumsum([sum(len(lane[step]) for lane in lanes) for step in range(len(lanes[0]))][::-1])[::-1]
        after = [*left[1:], 0]
        pending: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="loader") as pool:
            try:
                for step, positions in enumerate(lanes[self.rank]):
                    progress = 1 - after[step] / len(self)
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

        Row groups are looked through in a fixed shuffled order until there are enough.
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
        parts = np.array_split(np.sort(chosen), -(-len(chosen) // self.batch_size))
        return [self._collate([self._decode(int(row), 0, 0) for row in part], 1.0) for part in parts]

    def _batch(self, positions: order.Rows, epoch: int, progress: float) -> Batch:
        if not len(positions):
            # A rank without a sample in an epoch's last step keeps in step with a sample that counts for nothing.
            one = self._decode(0, 0, 0)
            blank = one._replace(mask=np.full_like(one.mask, IGNORE))
            return self._collate([blank], progress, [blank] if self._pairs else [])
        first, second = list[_Shown](), list[_Shown]()
        for position in positions:
            row = int(self._rows[position])
            generator = np.random.default_rng([self._seed, epoch, int(position)])
            view = int(generator.integers(self._views))
            first.append(self._decode(row, view, self._turn(generator)))
            if self._pairs:
                other = (view + 1 + int(generator.integers(self._views - 1))) % self._views
                second.append(self._decode(row, other, self._turn(generator)))
        return self._collate(first, progress, second)

    def _turn(self, generator: np.random.Generator) -> int:
        return int(generator.integers(8)) if self._turns else 0

    def _row(self, row: int) -> dict[str, Any]:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            if group not in self._held:
                self._held[group] = self._reader.read(group)
                while len(self._held) > order.WINDOW + 2:
                    self._held.popitem(last=False)
            self._held.move_to_end(group)
            return self._held[group][row - int(self._starts[group])]

    def _decode(self, number: int, view: int, turn: int) -> _Shown:
        row = self._row(number)
        stored = row["views"][view]
        name = f"sample {row['id']} of {self._uri}"
        image, mask = images.decode_image(stored["image"], name), images.decode_mask(stored["mask"], name)
        size = (self._input_size, self._input_size)
        if image.shape[:2] != size:
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        return _Shown(*views.dihedral(image, mask, turn), row["id"], f"{number}-{view}")

    @staticmethod
    def _collate(samples: list[_Shown], progress: float, second: Sequence[_Shown] = ()) -> Batch:
        return Batch(
            *_stacked(samples),
            ids=[one.id for one in samples],
            progress=progress,
            keys=[one.key for one in samples],
            second=_stacked(second) if second else None,
        )


def _stacked(samples: Sequence[_Shown]) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.from_numpy(np.stack([one.image for one in samples])),
        torch.from_numpy(np.stack([one.mask for one in samples])),
    )
