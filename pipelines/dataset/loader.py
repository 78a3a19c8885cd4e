"""From a pixel dataset to batches: decoded ahead of the training step, in the dataset's order, from any cursor.

The loader needs neither Ray nor a local copy of the dataset: row groups are read before the order reaches them
(read_ahead.py), and of each only the views that the epoch shows are held.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Generator, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch

from mpc_model.classes import IGNORED
from mpc_model.errors import DataError
from mpc_model.imaging import codecs, symmetries
from pipelines.dataset import order
from pipelines.dataset.batch import Batch
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.read_ahead import LIMIT, LOCAL_THREADS, REMOTE_THREADS, Read, ReadAhead
from pipelines.dataset.reader import DrawnView, ShardReader, decode_view
from pipelines.dataset.schema import NOT_FORGED
from pipelines.runtime import storage, uris

SYMMETRIES = 8
"""The symmetries of the square, as `symmetries.dihedral` numbers them; 0 changes nothing."""


FeatureMaps = list[npt.NDArray[np.float16]]
"""The maps of one view, each (C, h, w), the finest first."""


class FeatureSource(Protocol):
    """Features of stored views that need not be computed, nor their images decoded."""

    def stored(self) -> Set[str]:
        """The keys of the views whose features are there now; some may turn out to be damaged."""

    def load(self, key: str) -> FeatureMaps | None:
        """The maps of a view; None where they are not there, or damaged. Called by several threads."""

    @property
    def size(self) -> int:
        """Bytes of the maps of one view."""


class _Sample(NamedTuple):
    """A sample of an epoch as its files: one stored view, or two, and the symmetry that each is shown in."""

    views: list[DrawnView]
    keys: list[str]
    symmetries: list[int]

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(view.size for view in self.views)


class _DecodedView(NamedTuple):
    """One stored view of a sample at the input size, in one of the eight symmetries; no image where it has features."""

    image: codecs.Image | None
    mask: codecs.Mask
    scribble: codecs.Mask | None
    id: str
    forged: bool
    key: str
    features: FeatureMaps | None = None


class PixelLoader:
    """Batches of one split for one rank.

    Each sample comes in a stored view and in one of the eight symmetries of the square, both drawn from (seed, epoch,
    position). With `symmetries` off, views come as they are stored. With `pairs`, a second view of each sample is drawn
    too: always another stored view than the first, in a symmetry of its own. With `features`, views whose features are
    stored come as these and a mask; it goes without symmetries and pairs. With `scribbles`, each sample comes with its
    scribble, too, where the dataset has scribbles. `pinned`: batches lie in pinned memory.
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
        features: FeatureSource | None = None,
        pinned: bool = False,
        scribbles: bool = False,
    ) -> None:
        self._reader = ShardReader(uri, manifest, split)
        self._fingerprint, self._views, self._indexed = manifest.fingerprint, manifest.views, manifest.indexed
        self._scribbles = scribbles and manifest.scribbles
        self._counts = manifest.splits[split]
        self._uri = uri
        self._input_size, self._seed, self._threads = input_size, seed, threads
        self._symmetries, self._pairs = symmetries, pairs
        self._features, self._pinned = features, pinned
        self._collating = threading.Lock()  # while a batch is put together, its samples are there twice
        self.rank, self.world, self.batch_size = rank, world, batch_size
        self._entries = order.entries(self._reader.sizes, self._reader.repeats)
        self._starts = np.concatenate([[0], np.cumsum(self._reader.sizes)])
        self._readers = REMOTE_THREADS if uris.is_remote(uri) else LOCAL_THREADS
        pixels = input_size**2
        of_sample = max(3 * pixels, features.size if features else 0) + pixels * (1 + self._scribbles)
        self._batch_bytes = batch_size * of_sample * (1 + pairs)
        # Besides them there is the one that is asked for, and one of which a copy is made.
        self._batches_ahead = max(1, min(2 * threads, LIMIT // 2 // self._batch_bytes - 2))

    def __len__(self) -> int:
        """Samples in an epoch, repetitions counted."""
        return len(self._entries.rows)

    @property
    def entries(self) -> order.Entries:
        """The rows of an epoch."""
        return self._entries

    @property
    def group_sizes(self) -> order.Rows:
        """The number of rows of each row group of the split."""
        return self._reader.sizes

    def entries_of(self, rows: order.Rows) -> order.Entries:
        """Rows of the split as those of an epoch; rows of one row group that follow each other are one group."""
        groups = np.searchsorted(self._starts, rows, side="right")
        return order.Entries(rows, np.cumsum(np.diff(groups, prepend=groups[:1]) != 0))

    def epoch(self, cursor: order.Cursor) -> Iterator[Batch]:
        """What is left of the cursor's epoch: every rank yields the same number of batches."""
        return self.batches(*self.assigned(cursor, self._entries), self._entries, cursor.epoch)

    def assigned(self, cursor: order.Cursor, entries: order.Entries) -> tuple[list[order.Rows], Sequence[float]]:
        """The positions of each batch of this rank that is left of the cursor's epoch of these entries, and the share
        of the epoch that is done after it."""
        rank_batches = order.epoch_batches(
            *entries,
            fingerprint=self._fingerprint,
            seed=self._seed,
            cursor=cursor,
            world=self.world,
            batch_size=self.batch_size,
        )
        step_sizes = [sum(map(len, of_step)) for of_step in zip(*rank_batches, strict=True)]
        remaining = sum(step_sizes) - np.cumsum(step_sizes)
        return rank_batches[self.rank], (1 - remaining / len(entries.rows)).tolist()

    def batches(
        self, own: Sequence[order.Rows], progress: Sequence[float], entries: order.Entries, epoch: int
    ) -> Generator[Batch]:
        """Batches of the entries at these positions, each with its `progress`."""
        numbers, reads = self._plan(own, entries)
        needed = np.maximum.accumulate([0, *(of_step.max(initial=-1) + 1 for of_step in numbers)])[1:]
        stored = self._features.stored() if self._features else frozenset[str]()
        files = max(LIMIT // 2, LIMIT - (self._batches_ahead + 2) * self._batch_bytes)
        ahead = ReadAhead(reads, lambda read: self._read(read, epoch, entries, stored), self._readers, files)
        pending: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="loader") as pool, closing(ahead):
            try:
                for step, positions in enumerate(own):
                    ahead.start(int(needed[step]))
                    where = zip(numbers[step].tolist(), positions.tolist(), strict=True)
                    samples = [pool.submit(self._sample, ahead, *one, stored) for one in where]
                    # Threads take tasks in order: this one waits only for samples that others have begun.
                    pending.append(pool.submit(self._batch, samples, progress[step]))
                    if len(pending) > self._batches_ahead:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _plan(self, batches: Sequence[order.Rows], entries: order.Entries) -> tuple[list[order.Rows], list[Read]]:
        """The reads of an epoch in the order in which they are needed first, and of each batch the numbers of its
        samples' reads."""
        positions = np.concatenate([np.empty(0, np.int64), *batches])
        _, first, read = np.unique(entries.groups[positions], return_index=True, return_inverse=True)
        read = np.argsort(np.argsort(first))[read]
        by_read = positions[np.argsort(read, kind="stable")]
        reads = []
        for members in np.split(by_read, np.cumsum(np.bincount(read)))[:-1]:
            group = self._group(int(entries.rows[members[0]]))
            reads.append(Read(group, members.tolist(), int(self._reader.stored_bytes[group])))
        return np.split(read, np.cumsum([len(batch) for batch in batches]))[:-1], reads

    def _group(self, row: int) -> int:
        """The row group of a row of the split."""
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _read(self, read: Read, epoch: int, entries: order.Entries, stored: Set[str]) -> dict[int, _Sample]:
        """The samples of a row group by position. Images are left out where all of them have features."""
        rows = entries.rows
        samples = {position: (int(rows[position]), self._drawn(position, epoch)) for position in read.positions}
        start = int(self._starts[read.group])
        drawn = [(row - start, view) for row, shown in samples.values() for view, _ in shown]
        images = not all(f"{row}-{view}" in stored for row, shown in samples.values() for view, _ in shown)
        views = iter(self._reader.read_views(read.group, drawn, images, self._scribbles))
        return {
            position: _Sample(
                [next(views) for _ in shown], [f"{row}-{view}" for view, _ in shown], [turn for _, turn in shown]
            )
            for position, (row, shown) in samples.items()
        }

    def _drawn(self, position: int, epoch: int) -> list[tuple[int, int]]:
        """Which views of the row at a position of an epoch are shown, each with its symmetry."""
        generator = np.random.default_rng([self._seed, epoch, position])
        view = int(generator.integers(self._views))
        shown = [(view, self._symmetry(generator))]
        if self._pairs:
            other = (view + 1 + int(generator.integers(self._views - 1))) % self._views
            shown.append((other, self._symmetry(generator)))
        return shown

    def fixed(self, count: int) -> list[Batch]:
        """Canonical views of about `count` samples, half of them forged where there are as many: always the same ones.

        In a split without forged samples, such as that of a dataset with index masks, they are any samples. Row groups
        are searched in a fixed shuffled order until there are enough. The batches are those of a world of one; this
        rank reads and returns every `world`-th of them, from the one with its own number on.
        """
        others = self._counts.samples - self._counts.forged
        wanted = {True: max(1, count // 2), False: min(count - count // 2, others)}
        if not self._counts.forged:
            wanted = {True: 0, False: min(count, others)}
        chosen: list[int] = []
        order_of_groups = np.random.default_rng(0).permutation(len(self._reader.sizes)).tolist()
        for group, rows in storage.prefetch(lambda group: self._reader.read(group, ("kind",)), order_of_groups):
            for offset, row in enumerate(rows):
                forged = row["kind"] not in NOT_FORGED
                if wanted[forged]:
                    wanted[forged] -= 1
                    chosen.append(int(self._starts[group]) + offset)
            if not any(wanted.values()):
                break
        if not chosen:
            raise DataError(f"the kinds of the samples of {self._uri} are not those that its manifest counts")
        parts = np.array_split(np.sort(chosen), -(-len(chosen) // self.batch_size))[self.rank :: self.world]
        rows_of_groups = defaultdict[int, list[int]](list)
        for number in (int(number) for part in parts for number in part):
            rows_of_groups[self._group(number)].append(number)
        reads = storage.prefetch(self._canonical, rows_of_groups.values())
        samples = (sample for _, read in reads for sample in read)
        return [self._collate(list(islice(samples, len(part))), 1.0) for part in parts]

    def _canonical(self, rows: Sequence[int]) -> list[_DecodedView]:
        """The canonical views of rows of one row group."""
        group = self._group(rows[0])
        drawn = [(row - int(self._starts[group]), 0) for row in rows]
        views = self._reader.read_views(group, drawn, scribbles=self._scribbles)
        return [self._decode(view, f"{row}-0", 0) for row, view in zip(rows, views, strict=True)]

    def _sample(self, ahead: ReadAhead[_Sample], number: int, position: int, stored: Set[str]) -> list[_DecodedView]:
        """The views of the sample at a position, which read `number` has."""
        sample = ahead.take(number, position)
        if sample.keys[0] in stored:
            return [self._with_features(sample.views[0], sample.keys[0])]
        return [self._decode(*of_view) for of_view in zip(*sample, strict=True)]

    def _batch(self, samples: Sequence[Future[list[_DecodedView]]], progress: float) -> Batch:
        """The batch of samples that are being decoded."""
        if not samples:
            # A rank without a sample in an epoch's last step still takes the step, with a sample that is ignored.
            (canonical,) = self._canonical([0])
            nothing = np.full_like(canonical.mask, IGNORED)
            ignored = canonical._replace(mask=nothing, scribble=nothing if self._scribbles else None)
            return self._collate([ignored], progress, [ignored] if self._pairs else [])
        shown = [sample.result() for sample in samples]
        with self._collating:
            return self._collate(
                [views[0] for views in shown], progress, [view for views in shown for view in views[1:]]
            )

    def _symmetry(self, generator: np.random.Generator) -> int:
        return int(generator.integers(SYMMETRIES)) if self._symmetries else 0

    def _with_features(self, view: DrawnView, key: str) -> _DecodedView:
        """A view by its stored features and its mask; by its image where these are damaged."""
        assert self._features
        maps = self._features.load(key)
        if maps:
            decode = codecs.decode_labels if self._indexed else codecs.decode_mask
            mask = self._sized(decode(view.files["mask"], self._name(view)), cv2.INTER_NEAREST)
            return _DecodedView(None, mask, self._scribble(view, 0), view.id, view.is_forged, key, maps)
        if not view.files["image"]:
            row, number = map(int, key.split("-"))
            group = self._group(row)
            drawn = [(row - int(self._starts[group]), number)]
            (view,) = self._reader.read_views(group, drawn, scribbles=self._scribbles)
        return self._decode(view, key, 0)

    def _decode(self, view: DrawnView, key: str, symmetry: int) -> _DecodedView:
        image, mask = decode_view(view.files, self._name(view), self._indexed)
        image, mask = self._sized(image, cv2.INTER_LINEAR), self._sized(mask, cv2.INTER_NEAREST)
        image, mask = symmetries.dihedral(image, mask, symmetry)
        return _DecodedView(image, mask, self._scribble(view, symmetry), view.id, view.is_forged, key)

    def _scribble(self, view: DrawnView, symmetry: int) -> codecs.Mask | None:
        """The scribble of a view at the input size; None where none was read."""
        if "scribble" not in view.files:
            return None
        scribble = codecs.decode_labels(view.files["scribble"], self._name(view))
        return symmetries.element(self._sized(scribble, cv2.INTER_NEAREST), symmetry)

    def _name(self, view: DrawnView) -> str:
        return f"sample {view.id} of {self._uri}"

    def _sized(self, pixels: codecs.Image, interpolation: int) -> codecs.Image:
        """Pixels (H, W) or (H, W, 3) at the input size."""
        size = (self._input_size, self._input_size)
        return pixels if pixels.shape[:2] == size else cv2.resize(pixels, size, interpolation=interpolation)

    def _collate(self, samples: list[_DecodedView], progress: float, second: Sequence[_DecodedView] = ()) -> Batch:
        cached = [place for place, sample in enumerate(samples) if sample.features]
        levels = zip(*(sample.features for sample in samples if sample.features), strict=True)
        return Batch(
            self._images(samples),
            self._stacked([sample.mask for sample in samples]),
            ids=[sample.id for sample in samples],
            progress=progress,
            keys=[sample.key for sample in samples],
            second_images=self._images(second) if second else None,
            second_masks=self._stacked([sample.mask for sample in second]) if second else None,
            features=[self._stacked(level) for level in levels],
            cached=cached,
            forged=torch.tensor([sample.forged for sample in samples], pin_memory=self._pinned),
            scribbles=self._stacked([sample.scribble for sample in samples if sample.scribble is not None])
            if self._scribbles
            else None,
        )

    def _images(self, samples: Sequence[_DecodedView]) -> torch.Tensor:
        images = [sample.image for sample in samples if sample.image is not None]
        return (
            self._stacked(images)
            if images
            else torch.empty((0, self._input_size, self._input_size, 3), dtype=torch.uint8)
        )

    def _stacked(self, arrays: Sequence[npt.NDArray[Any]]) -> torch.Tensor:
        """Arrays of one shape as a tensor. Torch keeps pinned memory that is free again for the next batches."""
        stacked = torch.empty(
            (len(arrays), *arrays[0].shape), dtype=torch.from_numpy(arrays[0]).dtype, pin_memory=self._pinned
        )
        np.stack(arrays, out=stacked.numpy())
        return stacked
