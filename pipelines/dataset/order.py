"""The order of samples: one pure function, and the cursor that says how much of it is behind us.

An epoch's rows are permuted by row group, cut into one contiguous lane a rank (so that a rank reads its own row groups
and hardly any of another's), shuffled inside a window of groups, and cut into equally many batches on every rank.
Every row comes exactly once an epoch (a source with repeat r: r times); batches hold the batch size, or one less where
the epoch does not divide.

The cursor is (epoch, segments): each segment says that `steps` steps were taken with a world and batch size. What is
left of the epoch after the segments is dealt anew when the world changes, and goes on as it was when it does not.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
WINDOW = 32
"""Row groups whose rows are mixed with each other; a reader holds that many in memory."""


@dataclass(frozen=True)
class Segment:
    """`steps` consecutive steps of one epoch, taken by `world` ranks with `batch_size` samples each."""

    world: int
    batch_size: int
    steps: int


@dataclass(frozen=True)
class Cursor:
    """How far training has come: the epoch, and what was done of it."""

    epoch: int = 0
    segments: tuple[Segment, ...] = ()

    def advanced(self, world: int, batch_size: int, steps: int = 1) -> "Cursor":
        """The cursor after `steps` more steps; steps of the same shape extend the last segment."""
        *before, last = self.segments or (Segment(world, batch_size, 0),)
        if (last.world, last.batch_size) == (world, batch_size):
            return Cursor(self.epoch, (*before, Segment(world, batch_size, last.steps + steps)))
        return Cursor(self.epoch, (*before, last, Segment(world, batch_size, steps)))

    def to_json(self) -> dict[str, object]:
        """Plain values, for a checkpoint."""
        return {"epoch": self.epoch, "segments": [[s.world, s.batch_size, s.steps] for s in self.segments]}

    @staticmethod
    def from_json(value: dict[str, object]) -> "Cursor":
        """The inverse of `to_json`."""
        segments = value["segments"]
        assert isinstance(segments, list)
        return Cursor(int(str(value["epoch"])), tuple(Segment(*map(int, item)) for item in segments))


def entries(group_sizes: npt.NDArray[np.int64], repeats: npt.NDArray[np.int64]) -> tuple[Rows, Rows]:
    """All rows of an epoch, before any shuffling.

    Args: `group_sizes` (G,) rows in each row group, `repeats` (G,) times each is drawn.
    Returns: rows (N,) numbered through the whole split, and the group each belongs to (N,), where every repetition
    counts as a group of its own.
    """
    first = np.concatenate([[0], np.cumsum(group_sizes)[:-1]])
    drawn = np.repeat(np.arange(len(group_sizes)), repeats)
    lengths = group_sizes[drawn]
    group = np.repeat(np.arange(len(drawn)), lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return first[drawn][group] + np.arange(lengths.sum()) - starts, group


def epoch_batches(
    rows: Rows, groups: Rows, *, fingerprint: str, seed: int, cursor: Cursor, world: int, batch_size: int
) -> list[list[Rows]]:
    """What is left of an epoch: batches[rank][step], each an array of positions into `rows`.

    A pure function of its arguments. With the same world and batch size as the cursor's last segment, it is the rest of
    the sequence an uninterrupted run would have had.
    """
    left = np.arange(len(rows), dtype=np.int64)
    part = 0
    for part, segment in enumerate(cursor.segments):
        lanes = _deal(left, groups, fingerprint, seed, cursor.epoch, part, segment.world, segment.batch_size)
        if (segment.world, segment.batch_size) == (world, batch_size) and segment is cursor.segments[-1]:
            return [lane[segment.steps :] for lane in lanes]
        done = [batch for lane in lanes for batch in lane[: segment.steps]]
        left = np.setdiff1d(left, np.concatenate(done)) if done else left
        part += 1
    return _deal(left, groups, fingerprint, seed, cursor.epoch, part, world, batch_size)


def _deal(
    left: Rows, groups: Rows, fingerprint: str, seed: int, epoch: int, part: int, world: int, batch_size: int
) -> list[list[Rows]]:
    """Deal positions to ranks and batches; `part` is the number of world changes so far in this epoch."""
    if not len(left):
        return [[] for _ in range(world)]
    generator = np.random.default_rng([int(fingerprint[:16], 16), seed, epoch, part])
    shuffled_groups = generator.permutation(int(groups.max()) + 1)
    by_group = left[np.argsort(shuffled_groups[groups[left]], kind="stable")]
    steps = math.ceil(len(left) / (world * batch_size))
    lanes = []
    for lane in np.array_split(by_group, world):
        position = np.unique(shuffled_groups[groups[lane]], return_inverse=True)[1] if len(lane) else lane
        mixed = lane[np.lexsort((generator.random(len(lane)), position // WINDOW))]
        lanes.append(np.array_split(mixed, steps))
    return lanes


def step_seed(seed: int, step: int, part: int, rank: int) -> int:
    """The seed of everything random in one forward pass of a step of one rank: nothing to save, nothing to restore."""
    return int(np.random.SeedSequence([seed, step, part, rank]).generate_state(1, np.uint64)[0] >> 1)
