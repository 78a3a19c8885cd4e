"""Near-duplicates by perceptual hashes: which images belong together, and which lie in two splits.

A row of hashes is five 64-bit words: the difference hash (one word) and the fine hash (four). Two rows are near when
the first words differ in at most `bits` bits and the other four, together, in at most FINE_BITS. The first word finds
pairs and the others confirm them: among a million photographs, tens of thousands of pairs agree in the first word by
chance.

Pairs are found without comparing all of them. The first word is cut into `bits + 2` bands. Words that differ in at most
`bits` bits agree in at least two bands (the pigeonhole principle), so sorting by each pair of bands puts every near
pair side by side, and few others. Equal rows, and then rows with equal first words, are merged first. Pairs are
consumed block by block and never stored, so that memory grows with the number of hashes only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Hashes = npt.NDArray[np.uint64]
"""(N, 5): the word of `codecs.difference_hash`, then the four of `codecs.fine_hash`."""
Words = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

COLUMNS = ("photo_hash", "photo_hash_fine")
"""The columns of a table that hold both hashes: uint64 and binary(32)."""

BITS = 4
"""Default distance of the first words up to which images are near-duplicates."""
FINE_BITS = 36
"""Distance of the four other words up to which they confirm a pair.

Measured at 4 bits on 1,641 photographs and forgeries: of 23,790 copies (recompressed, resized, brighter, cut by 2%,
with 2 to 10% pasted in) whose first words are near, 99.9% are confirmed; of 1,015 pairs of crops of different
photographs 0.5%, all of sunsets. First words of different photographs are near in 2 of ten million pairs, so about one
of a thousand million pairs is wrongly called near."""
BLOCK = 1 << 19
"""Pairs compared at once: about 40 MiB."""


@dataclass(frozen=True)
class NearDuplicates:
    """A summary of the near-duplicates of a dataset.

    `alike` images have at least one near-duplicate; they form `groups` groups. `crossing` of them have one in another
    split; `examples` are the nearest few of those, as (key, key, differing bits of the first word).
    """

    bits: int
    alike: int
    groups: int
    crossing: int
    examples: tuple[tuple[str, str, int], ...]


def from_columns(table: pa.Table) -> Hashes:
    """The hashes (N, 5) of a table with COLUMNS, none of them null."""
    first, fine = (table[name].combine_chunks() for name in COLUMNS)
    words = np.frombuffer(fine.buffers()[1], np.uint64).reshape(-1, 4)[fine.offset :][: len(fine)]
    return np.column_stack([first.to_numpy(), words])


def summary(
    key: Callable[[int], str], hashes: Hashes, splits: npt.NDArray[np.int64], bits: int = BITS, examples: int = 5
) -> NearDuplicates:
    """The near-duplicates among images with `hashes` (N, 5) and numbered `splits` (N,); `key` names image i."""
    sizes = np.bincount(components(hashes, bits), minlength=1)
    partner, distance = nearest_across(hashes, splits, bits)
    crossing = np.flatnonzero(partner >= 0)
    nearest_first = crossing[np.argsort(distance[crossing], kind="stable")]
    pairs: dict[frozenset[int], tuple[str, str, int]] = {}
    for i in map(int, nearest_first[: 2 * examples]):  # a pair may come twice, once from either end
        j = int(partner[i])
        pairs.setdefault(frozenset((i, j)), (key(min(i, j)), key(max(i, j)), int(distance[i])))
    group_sizes = sizes[sizes > 1]
    return NearDuplicates(
        bits, int(group_sizes.sum()), len(group_sizes), len(crossing), tuple(pairs.values())[:examples]
    )


def distinctive(hashes: Hashes, bits: int = BITS) -> npt.NDArray[np.bool_]:
    """(N,) whether each of `hashes` (N, 5) tells its image from others.

    The difference hash of a uniform picture (a blank page, a gradient, a silhouette on white) has nearly all bits
    equal, and such pictures are near each other whatever they show. Hashes whose first word is within 2 * bits of all
    zeros or all ones are therefore near nothing.
    """
    ones = np.bitwise_count(hashes[:, 0])
    return np.asarray((ones > 2 * bits) & (ones < 64 - 2 * bits))


def components(hashes: Hashes, bits: int = BITS, groups: Indices | None = None) -> Indices:
    """Connected components of the graph of near pairs: (N,) the number of the component of each of `hashes` (N, 5).

    Components are numbered from 0 in the order of their first image. With `groups` (N,), any integers, images of one
    group are connected too.
    """
    labels = np.arange(len(hashes))
    if groups is not None:
        _, first, member = np.unique(groups, return_index=True, return_inverse=True)
        labels = _joined(labels, labels, first[member])
    chosen = np.flatnonzero(distinctive(hashes, bits))
    values, first, member = _distinct(hashes[chosen])
    labels = _joined(labels, chosen, chosen[first][member])
    for i, j in _near(values, values, bits):
        labels = _joined(labels, chosen[first[i]], chosen[first[j]])
    return np.unique(labels, return_inverse=True)[1]


def nearest(a: Hashes, b: Hashes, bits: int = BITS) -> tuple[Indices, Indices]:
    """For each of `a` (N, 5) the index (N,) of its nearest in `b` (M, 5) and the distance (N,), -1 where none is near.

    The distance is the number of differing bits of the first words. Of equally near rows, the first is taken.
    """
    chosen_a, chosen_b = (np.flatnonzero(distinctive(hashes, bits)) for hashes in (a, b))
    values_a, _, member = _distinct(a[chosen_a])
    values_b, first, _ = _distinct(b[chosen_b])
    none = np.iinfo(np.int64).max
    best = np.full(len(values_a), none)
    for i, j in _near(values_a, values_b, bits):
        distance = np.bitwise_count(values_a[i, 0] ^ values_b[j, 0]).astype(np.int64)
        np.minimum.at(best, i, distance << 48 | chosen_b[first[j]])  # ordered by distance, then by index
    index, distance = np.full(len(a), -1), np.full(len(a), -1)
    near = best[member] < none
    index[chosen_a[near]] = best[member[near]] & (1 << 48) - 1
    distance[chosen_a[near]] = best[member[near]] >> 48
    return index, distance


def nearest_across(hashes: Hashes, splits: npt.NDArray[np.int64], bits: int = BITS) -> tuple[Indices, Indices]:
    """For each of `hashes` (N, 5) its nearest in another of the `splits` (N,): index and distance as of `nearest`."""
    index, distance = np.full(len(hashes), -1), np.full(len(hashes), -1)
    for split in np.unique(splits):
        inside, outside = np.flatnonzero(splits == split), np.flatnonzero(splits != split)
        partner, distance[inside] = nearest(hashes[inside], hashes[outside], bits)
        near = partner >= 0
        index[inside[near]] = outside[partner[near]]
    return index, distance


def _distinct(hashes: Hashes) -> tuple[Hashes, Indices, Indices]:
    """The distinct rows in ascending order, the first index of each, and for each of `hashes` its number among them."""
    order = np.lexsort(hashes.T[::-1])
    ordered = hashes[order]
    new = np.ones(len(hashes), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    number = np.empty(len(hashes), np.int64)
    number[order] = np.cumsum(new) - 1
    return ordered[new], order[new], number


def _near(a: Hashes, b: Hashes, bits: int) -> Iterator[tuple[Indices, Indices]]:
    """Blocks of all near pairs (i, j) of `a` and `b`, whose rows are in ascending order.

    A pair may come more than once. Within one array (`b is a`) no row is paired with itself, and only one of (i, j) and
    (j, i) comes.
    """
    for i, j in _candidates(a, b, bits):
        differing = np.zeros(len(i), np.uint16)
        for word_a, word_b in zip(a.T[1:], b.T[1:], strict=True):  # word by word: whole rows take ten times as long
            differing += np.bitwise_count(word_a[i] ^ word_b[j])
        near = differing <= FINE_BITS
        if near.any():
            yield i[near], j[near]


def _candidates(a: Hashes, b: Hashes, bits: int) -> Iterator[tuple[Indices, Indices]]:
    """Blocks of the pairs, numbered as in `_near`, whose first words are near."""
    words_a, first_a, count_a = np.unique(a[:, 0], return_index=True, return_counts=True)
    words_b, first_b, count_b = np.unique(b[:, 0], return_index=True, return_counts=True)
    start = np.arange(1, len(a) + 1) if b is a else np.searchsorted(b[:, 0], a[:, 0], "left")
    yield from _expanded(start, np.searchsorted(b[:, 0], a[:, 0], "right") - start)
    for p, q in _near_words(words_a, words_a if b is a else words_b, bits):
        for k, i in _expanded(first_a[p], count_a[p]):
            for row, j in _expanded(first_b[q[k]], count_b[q[k]]):
                yield i[row], j


def _near_words(a: Words, b: Words, bits: int) -> Iterator[tuple[Indices, Indices]]:
    """Blocks of all pairs (i, j) of words of `a` and `b` that differ, but in few bits; a pair may come more than once.

    Within one array (`b is a`) no row is paired with itself, and only one of (i, j) and (j, i) comes.
    """
    for mask in _masks(bits):
        left = np.argsort(a & mask)
        right = left if b is a else np.argsort(b & mask)
        keys_a, keys_b = a[left] & mask, b[right] & mask
        start = np.arange(1, len(a) + 1) if b is a else np.searchsorted(keys_b, keys_a, "left")
        partners = np.searchsorted(keys_b, keys_a, "right") - start
        for i, j in _expanded(start, partners):
            i, j = left[i], right[j]
            differing = np.bitwise_count(a[i] ^ b[j])
            near = (differing > 0) & (differing <= bits)
            if near.any():
                yield i[near], j[near]


def _masks(bits: int) -> list[np.uint64]:
    """A mask for every pair of the `bits + 2` bands into which 64 bits are cut."""
    edges = np.linspace(0, 64, bits + 3).round().astype(int)
    bands = [(1 << int(high)) - (1 << int(low)) for low, high in pairwise(edges)]
    return [np.uint64(band | other) for band, other in combinations(bands, 2)]


def _expanded(start: Indices, partners: Indices) -> Iterator[tuple[Indices, Indices]]:
    """All pairs (k, start[k] + n) with 0 <= n < partners[k], about BLOCK at a time."""
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


def _joined(labels: Indices, i: Indices, j: Indices) -> Indices:
    """`labels` after joining the components of i[k] and j[k], all k; a label is the smallest index of its component."""
    while True:
        a, b = labels[i], labels[j]
        apart = a != b
        if not apart.any():
            return labels
        labels = labels.copy()
        np.minimum.at(labels, np.maximum(a, b)[apart], np.minimum(a, b)[apart])
        while not np.array_equal(labels, shorter := labels[labels]):
            labels = shorter
