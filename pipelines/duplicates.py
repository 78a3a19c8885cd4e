"""Near-duplicates by 64-bit perceptual hashes: which images belong together, and which lie in two splits.

Two hashes are near when they differ in at most `bits` bits. Cut into `bits + 2` bands, near hashes agree in at least
two of them (the pigeonhole principle), so sorting by each pair of bands finds every near pair and few others. Equal
hashes are collapsed first and pairs are never kept, only what they say: memory stays in proportion to the hashes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

BITS = 4
"""Default distance up to which images are near-duplicates."""
BLOCK = 1 << 20
"""Pairs compared at once: about 60 MiB."""


@dataclass(frozen=True)
class NearDuplicates:
    """What a report says of a dataset: `alike` images in `groups` of near-duplicates, `crossing` of them with one in
    another split, and the nearest few of those as (key, key, differing bits)."""

    bits: int
    alike: int
    groups: int
    crossing: int
    examples: tuple[tuple[str, str, int], ...]


def summary(
    keys: Sequence[str], hashes: Hashes, splits: npt.NDArray[np.int64], bits: int = BITS, examples: int = 5
) -> NearDuplicates:
    """The near-duplicates among images with `keys` (N), `hashes` (N,) and numbered `splits` (N,)."""
    sizes = np.bincount(components(hashes, bits), minlength=1)
    partner, distance = across(hashes, splits, bits)
    found = np.flatnonzero(partner >= 0)
    nearest_few = found[np.argsort(distance[found], kind="stable")]
    shown: dict[frozenset[int], tuple[str, str, int]] = {}
    for i in map(int, nearest_few[: 2 * examples]):  # both ends of a pair find each other
        j = int(partner[i])
        shown.setdefault(frozenset((i, j)), (keys[min(i, j)], keys[max(i, j)], int(distance[i])))
    alike = sizes[sizes > 1]
    return NearDuplicates(bits, int(alike.sum()), len(alike), len(found), tuple(shown.values())[:examples])


def telling(hashes: Hashes, bits: int = BITS) -> npt.NDArray[np.bool_]:
    """Whether each hash (N,) says enough of its image to be compared.

    A difference hash of an even picture (a blank page, a gradient, a silhouette on white) has nearly all bits equal,
    and such pictures are near each other whatever they show. Hashes within 2 * bits of all zeros or all ones match
    nothing.
    """
    ones = np.bitwise_count(hashes)
    return np.asarray((ones > 2 * bits) & (ones < 64 - 2 * bits))


def components(hashes: Hashes, bits: int = BITS, groups: Indices | None = None) -> Indices:
    """What must stay together: for each of `hashes` (N,) the number of the set that chains of near pairs join it to.

    Sets are numbered from 0 by their first image. With `groups` (N,), any integers, images of one group are together
    too.
    """
    labels = np.arange(len(hashes))
    if groups is not None:
        _, first, member = np.unique(groups, return_index=True, return_inverse=True)
        labels = _united(labels, labels, first[member])
    chosen = np.flatnonzero(telling(hashes, bits))
    values, first, member = np.unique(hashes[chosen], return_index=True, return_inverse=True)
    labels = _united(labels, chosen, chosen[first][member])
    for i, j in _near(values, values, bits):
        labels = _united(labels, chosen[first[i]], chosen[first[j]])
    return np.unique(labels, return_inverse=True)[1]


def nearest(a: Hashes, b: Hashes, bits: int = BITS) -> tuple[Indices, Indices]:
    """For each hash of `a` (N,) the index of its nearest in `b` (M,) within `bits`, and the distance; -1 where none.

    Of equally near ones the first is taken.
    """
    chosen_a, chosen_b = (np.flatnonzero(telling(hashes, bits)) for hashes in (a, b))
    values_a, member = np.unique(a[chosen_a], return_inverse=True)
    values_b, first = np.unique(b[chosen_b], return_index=True)
    none = np.iinfo(np.int64).max
    best = np.full(len(values_a), none)
    for i, j in _near(values_a, values_b, bits):
        distance = np.bitwise_count(values_a[i] ^ values_b[j]).astype(np.int64)
        np.minimum.at(best, i, distance << 48 | chosen_b[first[j]])
    index, distance = np.full(len(a), -1), np.full(len(a), -1)
    hit = best[member] < none
    index[chosen_a[hit]] = best[member[hit]] & (1 << 48) - 1
    distance[chosen_a[hit]] = best[member[hit]] >> 48
    return index, distance


def across(hashes: Hashes, splits: npt.NDArray[np.int64], bits: int = BITS) -> tuple[Indices, Indices]:
    """For each of `hashes` (N,) its nearest in another of the `splits` (N,): index and distance, -1 where none."""
    index, distance = np.full(len(hashes), -1), np.full(len(hashes), -1)
    for split in np.unique(splits):
        inside, outside = np.flatnonzero(splits == split), np.flatnonzero(splits != split)
        found, distance[inside] = nearest(hashes[inside], hashes[outside], bits)
        hit = found >= 0
        index[inside[hit]] = outside[found[hit]]
    return index, distance


def _near(a: Hashes, b: Hashes, bits: int) -> Iterator[tuple[Indices, Indices]]:
    """Blocks of all near pairs (i, j) of `a` and `b`; a pair may come again.

    Within one array (`b is a`) no element is paired with itself, and of (i, j) and (j, i) one comes.
    """
    for mask in _masks(bits):
        left = np.argsort(a & mask)
        right = left if b is a else np.argsort(b & mask)
        wanted, present = a[left] & mask, b[right] & mask
        start = np.arange(1, len(a) + 1) if b is a else np.searchsorted(present, wanted, "left")
        partners = np.searchsorted(present, wanted, "right") - start
        for i, j in _expanded(start, partners):
            i, j = left[i], right[j]
            near = np.bitwise_count(a[i] ^ b[j]) <= bits
            if near.any():
                yield i[near], j[near]


def _masks(bits: int) -> list[np.uint64]:
    """Every pair of the bands into which 64 bits are cut, as a mask."""
    edges = np.linspace(0, 64, bits + 3).round().astype(int)
    bands = [(1 << int(high)) - (1 << int(low)) for low, high in pairwise(edges)]
    return [np.uint64(one | other) for one, other in combinations(bands, 2)]


def _expanded(start: Indices, partners: Indices) -> Iterator[tuple[Indices, Indices]]:
    """All (k, start[k] + 0, 1, ... partners[k] - 1), about BLOCK at a time."""
    total = np.cumsum(partners)
    low = 0
    while low < len(start):
        done = total[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(total, done + BLOCK, "right")))
        count = partners[low:high]
        rows = np.repeat(np.arange(low, high), count)
        within = np.arange(len(rows)) - np.repeat(total[low:high] - count - done, count)
        yield rows, start[rows] + within
        low = high


def _united(labels: Indices, i: Indices, j: Indices) -> Indices:
    """`labels`, each the smallest index of its component, after the components of i[k] and j[k] were joined, all k."""
    while True:
        a, b = labels[i], labels[j]
        apart = a != b
        if not apart.any():
            return labels
        labels = labels.copy()
        np.minimum.at(labels, np.maximum(a, b)[apart], np.minimum(a, b)[apart])
        while not np.array_equal(labels, shorter := labels[labels]):
            labels = shorter
