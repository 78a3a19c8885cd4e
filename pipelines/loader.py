"""From a pixel dataset to batches: decoded ahead of the training step, in the contract's order, from any cursor.

Needs neither Ray nor a local copy: row groups are read as the order reaches them, and at most a window of them is held.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from mpc_model import images, views
from pipelines import order
from pipelines.shards import ShardReader

IGNORE = 255


@dataclass(frozen=True)
class Batch:
    """`images` uint8 (B, H, W, 3), `masks` uint8 (B, H, W) of 0, 1 and 255 = ignore, `ids` of the samples.

    `progress` is the share of the epoch that is behind us after this batch, over all ranks.
    """

    images: torch.Tensor
    masks: torch.Tensor
    ids: list[str]
    progress: float

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Images as float32 (B, 3, H, W) in [0, 1], and the masks, on a device.

        The conversion is left to the caller's thread: torch operations in loader threads would each bring their own
        pool of threads, and slow the training step by half.
        """
        return self.images.to(device).permute(0, 3, 1, 2).float() / 255, self.masks.to(device)


class PixelLoader:
    """Batches of one split for one rank."""

    def __init__(
        self,
        uri: str,
        manifest: dict[str, Any],
        split: str,
        *,
        input_size: int,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
    ) -> None:
        self._reader = ShardReader(uri, manifest, split)
        self._fingerprint, self._views = manifest["fingerprint"], manifest["views"]
        self._authentic = manifest["splits"][split]["samples"] - manifest["splits"][split]["forged"]
        self._uri = uri
        self._input_size, self._seed, self._threads = input_size, seed, threads
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
        return [self._collate([self._decode(self._row(int(row)), 0, 0) for row in part], 1.0) for part in parts]

    def _batch(self, positions: order.Rows, epoch: int, progress: float) -> Batch:
        if not len(positions):
            # A rank without a sample in an epoch's last step keeps in step with a sample that counts for nothing.
            image, mask, name = self._decode(self._row(0), 0, 0)
            return self._collate([(image, np.full_like(mask, IGNORE), name)], progress)
        samples = []
        for position in positions:
            generator = np.random.default_rng([self._seed, epoch, int(position)])
            view, turn = int(generator.integers(self._views)), int(generator.integers(8))
            samples.append(self._decode(self._row(int(self._rows[position])), view, turn))
        return self._collate(samples, progress)

    def _row(self, row: int) -> dict[str, Any]:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            if group not in self._held:
                self._held[group] = self._reader.read(group)
                while len(self._held) > order.WINDOW + 2:
                    self._held.popitem(last=False)
            self._held.move_to_end(group)
            return self._held[group][row - int(self._starts[group])]

    def _decode(self, row: dict[str, Any], view: int, turn: int) -> tuple[images.Image, images.Mask, str]:
        stored = row["views"][view]
        name = f"sample {row['id']} of {self._uri}"
        image, mask = images.decode_image(stored["image"], name), images.decode_mask(stored["mask"], name)
        size = (self._input_size, self._input_size)
        if image.shape[:2] != size:
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        return (*views.dihedral(image, mask, turn), row["id"])

    @staticmethod
    def _collate(samples: list[tuple[images.Image, images.Mask, str]], progress: float) -> Batch:
        return Batch(
            images=torch.from_numpy(np.stack([image for image, _, _ in samples])),
            masks=torch.from_numpy(np.stack([mask for _, mask, _ in samples])),
            ids=[name for _, _, name in samples],
            progress=progress,
        )
