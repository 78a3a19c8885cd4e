"""Batches for adaptation: images of a source with their labels, and as many images of a target without theirs.

The cursor is that of the source. Which row of the target stands at a position of an epoch is a pure function of the
target's fingerprint, the seed, the epoch and the position: whatever the number of ranks, and however often training was
interrupted, an image of the source meets the same image of the target.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.dataset import order
from pipelines.dataset.batch import Batch
from pipelines.dataset.loader import PixelLoader
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.rare_classes import ClassRows


class PairedLoader:
    """The training split of a source, each sample once an epoch, and beside it that of a target, over and over.

    The images of the target are the batch's `second_images`; their masks are dropped here, where they are read. With
    `rare_classes` the samples of the source are drawn by class, as many as it has.
    """

    def __init__(
        self, source: str, target: str, *, seed: int, rare_classes: float | None = None, **options: Any
    ) -> None:
        """`source` and `target` are locations; `options` are those of PixelLoader."""
        manifests = [Manifest.read(uri) for uri in (source, target)]
        self._fingerprints = [manifest.fingerprint for manifest in manifests]
        self._seed = seed
        self._source = PixelLoader(source, manifests[0], "train", seed=seed, **options)
        own = np.random.SeedSequence([int(self._fingerprints[1][:16], 16), seed]).generate_state(1)
        self._target = PixelLoader(target, manifests[1], "train", seed=int(own[0]), **options)
        self._class_rows = ClassRows(source, manifests[0], rare_classes) if rare_classes else None

    def __len__(self) -> int:
        """Samples of the source in an epoch, repetitions counted."""
        return len(self._source)

    def epoch(self, cursor: order.Cursor) -> Iterator[Batch]:
        """What is left of the cursor's epoch: every rank yields the same number of batches."""
        entries = self._source_entries(cursor.epoch)
        own, progress = self._source.assigned(cursor, entries)
        rows = order.companions(
            self._target.group_sizes,
            len(self),
            fingerprint=self._fingerprints[1],
            seed=self._seed,
            epoch=cursor.epoch,
        )
        targets = self._target.batches(own, progress, self._target.entries_of(rows), cursor.epoch)
        sources = self._source.batches(own, progress, entries, cursor.epoch)
        with closing(targets), closing(sources):
            for source, target in zip(sources, targets, strict=True):
                yield replace(source, second_images=target.images)

    def _source_entries(self, epoch: int) -> order.Entries:
        if self._class_rows is None:
            return self._source.entries
        generator = np.random.default_rng([int(self._fingerprints[0][:16], 16), self._seed, epoch, 0, 0])
        return self._source.entries_of(self._class_rows.drawn(len(self), generator))
