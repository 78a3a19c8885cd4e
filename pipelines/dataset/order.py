"""The order of samples in an epoch: a pure function, and the cursor that says how much of an epoch is done.

An epoch is ordered in four steps:

1. The row groups are put into a random order.
2. The rows are cut into one contiguous part for each rank, so that ranks hardly ever read the same row group.
3. Each rank's rows are shuffled inside windows of WINDOW row groups.
4. Each rank's rows are cut into batches, equally many on every rank.

Every row comes once an epoch (a row of a source with repeat r: r times). A batch holds the batch size, or fewer where
the epoch does not divide.

The cursor is (epoch, segments). A segment says that `steps` steps were taken with one world size and batch size. When
training goes on with the same two, so does the sequence of batches; when they change, the rows that are left are
ordered anew by the same four steps.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
WINDOW = 32
"""Row groups whose rows are mixed with each other; a reader holds that many in memory."""


class CursorDocument(TypedDict):
    """A cursor as JSON: a segment is [world size, batch size, steps]."""

    epoch: int
    segments: list[tuple[int, int, int]]


@dataclass(frozen=True)
class Segment:
    """`steps` consecutive steps of one epoch, taken by `world` ranks with `batch_size` samples each."""

    world: int
    batch_size: int
    steps: int


@dataclass(frozen=True)
class Cursor:
    """How far training has come: the epoch, and the segments of it that are done."""

    epoch: int = 0
    segments: tuple[Segment, ...] = ()

    def advanced(self, world: int, batch_size: int, steps: int = 1) -> "Cursor":
        """The cursor after `steps` more steps; with the same world and batch size they extend the last segment."""
        *before, last = self.segments or (Segment(world, batch_size, 0),)
        if (last.world, last.batch_size) == (world, batch_size):
            return Cursor(self.epoch, (*before, Segment(world, batch_size, last.steps + steps)))
        return Cursor(self.epoch, (*before, last, Segment(world, batch_size, steps)))

    def to_json(self) -> CursorDocument:
        """Plain values, for a checkpoint."""
        return {"epoch": self.epoch, "segments": [(s.world, s.batch_size, s.steps) for s in self.segments]}

    @staticmethod
    def from_json(value: CursorDocument) -> "Cursor":
        """The inverse of `to_json`."""
        return Cursor(value["epoch"], tuple(Segment(*segment) for segment in value["segments"]))


class Entries(NamedTuple):
    """All rows of an epoch, before any shuffling: their numbers in the split (N,), and the group of each (N,), where
    every repetition of a row group counts as a group of its own."""

    rows: Rows
    groups: Rows


def entries(group_sizes: npt.NDArray[np.int64], repeats: npt.NDArray[np.int64]) -> Entries:
    """The rows of an epoch in the order of the split.

    `group_sizes` (G,) is the number of rows of each row group, `repeats` (G,) how often each is drawn.
    """
    first = np.concatenate([[0], np.cumsum(group_sizes)[:-1]])
    drawn = np.repeat(np.arange(len(group_sizes)), repeats)
    lengths = group_sizes[drawn]
    group = np.repeat(np.arange(len(drawn)), lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return Entries(first[drawn][group] + np.arange(lengths.sum()) - starts, group)


def companions(group_sizes: npt.NDArray[np.int64], count: int, *, fingerprint: str, seed: int, epoch: int) -> Rows:
    """Rows of another split, one for each of `count` positions of an epoch: a pure function of the arguments.

    All rows come once before one comes again. Row groups are in a random order, and so are the rows of each: positions
    that lie together have rows that lie together.
    """
    starts = np.cumsum(group_sizes) - group_sizes
    parts, missing, cycle = list[Rows](), count, 0
    while missing > 0:
        generator = np.random.default_rng([int(fingerprint[:16], 16), seed, epoch, cycle])
        for group in generator.permutation(len(group_sizes)):
            parts.append(starts[group] + generator.permutation(group_sizes[group]))
        missing, cycle = missing - int(group_sizes.sum()), cycle + 1
    return np.concatenate(parts)[:count].astype(np.int64)


def epoch_batches(
    rows: Rows, groups: Rows, *, fingerprint: str, seed: int, cursor: Cursor, world: int, batch_size: int
) -> list[list[Rows]]:
    """The batches that are left of an epoch: batches[rank][step] is an array of positions into `rows`.

    A pure function of its arguments. With the world and batch size of the cursor's last segment, the result is the rest
    of what an uninterrupted run would have had. `rows` and `groups` are those of `entries`.
    """
    segments = _with_current(cursor.segments, world, batch_size)

    def generator(segment_index: int) -> np.random.Generator:
        return np.random.default_rng([int(fingerprint[:16], 16), seed, cursor.epoch, segment_index])

    remaining = np.arange(len(rows), dtype=np.int64)
    *finished, current = segments
    for segment_index, segment in enumerate(finished):
        rank_batches = _assign_to_ranks(remaining, groups, segment, generator(segment_index))
        done = [batch for batches in rank_batches for batch in batches[: segment.steps]]
        remaining = np.setdiff1d(remaining, np.concatenate(done)) if done else remaining
    rank_batches = _assign_to_ranks(remaining, groups, current, generator(len(finished)))
    return [batches[current.steps :] for batches in rank_batches]


def steps_left(rows: int, cursor: Cursor, world: int, batch_size: int) -> int:
    """How many batches each rank still has of the cursor's epoch of so many rows: as many as `epoch_batches` gives,
    but nothing is drawn, so that it may be asked at every step."""
    left = rows
    *finished, current = _with_current(cursor.segments, world, batch_size)
    for segment in finished:
        steps = math.ceil(left / (segment.world * segment.batch_size))
        shares = [left // segment.world + (rank < left % segment.world) for rank in range(segment.world)]
        # Of a rank's rows, `np.array_split` gives the first batches one more.
        left -= sum(segment.steps * (share // steps) + min(segment.steps, share % steps) for share in shares if steps)
    return math.ceil(left / (world * batch_size)) - current.steps


def _with_current(segments: tuple[Segment, ...], world: int, batch_size: int) -> tuple[Segment, ...]:
    """The segments, of which the last has this world and batch size: a new one without steps where it has not."""
    if segments and (segments[-1].world, segments[-1].batch_size) == (world, batch_size):
        return segments
    return (*segments, Segment(world, batch_size, 0))


def _assign_to_ranks(
    positions: Rows, groups: Rows, segment: Segment, generator: np.random.Generator
) -> list[list[Rows]]:
    """All batches of a segment that begins with `positions` left: the four steps at the top of this module."""
    if not len(positions):
        return [[] for _ in range(segment.world)]
    # 1. A random order of the row groups; the rows of a group stay together.
    group_rank = generator.permutation(int(groups.max()) + 1)[groups]
    by_group = positions[np.argsort(group_rank[positions], kind="stable")]
    steps = math.ceil(len(positions) / (segment.world * segment.batch_size))
    rank_batches = []
    # 2. One contiguous part for each rank.
    for part in np.array_split(by_group, segment.world):
        # 3. Shuffled inside windows; groups are counted from the first that this rank reads.
        window = np.unique(group_rank[part], return_inverse=True)[1] // WINDOW
        shuffled = part[np.lexsort((generator.random(len(part)), window))]
        # 4. Equally many batches on every rank.
        rank_batches.append(np.array_split(shuffled, steps))
    return rank_batches


def step_seed(seed: int, step: int, micro_batch: int, rank: int) -> int:
    """The seed of everything random in one forward pass: nothing has to be saved in a checkpoint or restored.

    `micro_batch` counts the forward passes of a step where gradients are accumulated, `rank` is the process.
    """
    return int(np.random.SeedSequence([seed, step, micro_batch, rank]).generate_state(1, np.uint64)[0] >> 1)
