"""Near-duplicates: every pair that a search over all pairs finds, and nothing else; chains, borders, empty pictures."""

import tracemalloc

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from mpc_model.imaging import codecs
from pipelines.dataset import duplicates
from pipelines.dataset.duplicates import FINE_BITS, Hashes


def scattered(seed: int, count: int = 400) -> Hashes:
    """Random hashes (N, 5), half of them copies of others: up to six bits of the first word flipped, and of the others
    none, or about as many as may differ, or many more. Some are equal, in the first word or wholly."""
    generator = np.random.default_rng(seed)
    hashes = generator.integers(0, 2**64, (count, 5), dtype=np.uint64)
    hashes[count // 2 :] = hashes[generator.integers(0, count // 2, count - count // 2)]
    for flips in range(6):
        some = slice(count // 2 + (flips + 1) * count // 14, count)
        hashes[some, 0] ^= np.uint64(1) << generator.integers(0, 64, count, dtype=np.uint64)[some]
    about = [0, 0, FINE_BITS - 1, FINE_BITS, FINE_BITS, FINE_BITS + 1, 100]
    for row in range(count // 2, count):
        flipped = np.zeros(256, np.uint8)
        flipped[generator.choice(256, generator.choice(about), replace=False)] = 1
        hashes[row, 1:] ^= np.packbits(flipped).view(np.uint64)
    return hashes


def rows(*words: int) -> Hashes:
    """Hashes of these first words that agree in the others."""
    return np.array([[word, 0, 0, 0, 0] for word in words], np.uint64)


def differing(a: Hashes, b: Hashes) -> np.ndarray:
    """(N, M) in how many bits columns of two arrays of hashes differ, looking at every pair bit by bit."""
    pairs = np.ascontiguousarray(a[:, None] ^ b[None])
    return np.unpackbits(pairs.view(np.uint8), axis=2).sum(axis=2, dtype=np.int64)


def all_near(a: Hashes, b: Hashes, bits: int) -> np.ndarray:
    """(N, M) whether two hashes are near."""
    return (differing(a[:, :1], b[:, :1]) <= bits) & (differing(a[:, 1:], b[:, 1:]) <= FINE_BITS)


@pytest.mark.parametrize("bits", [0, 1, 4, 8])
@pytest.mark.parametrize("block", [1, 50, duplicates.BLOCK])
def test_components_are_those_of_the_graph_of_all_pairs(bits: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    hashes = scattered(bits)
    near = all_near(hashes, hashes, bits)
    expected = np.arange(len(hashes))
    for _ in range(len(hashes)):
        spread = np.where(near, expected[None], len(hashes)).min(axis=1)
        if np.array_equal(spread, expected):
            break
        expected = spread
    assert len(np.unique(expected)) < len(hashes)
    first = sorted(set(expected.tolist()))
    assert duplicates.components(hashes, bits).tolist() == [first.index(label) for label in expected]


def test_groups_and_near_pairs_chain() -> None:
    """0 and 1 are near, 1 and 2 of one group, 2 and 3 near: all four stay together; 4 is alone."""
    first, second, other = (int(value) for value in np.random.default_rng(1).integers(2**62, 2**64, 3, np.uint64))
    hashes = rows(first, first ^ 0b1011, second, second ^ 1, other)
    labels = duplicates.components(hashes, 3, np.array([7, 5, 5, 9, 8]))
    assert labels.tolist() == [0, 0, 0, 0, 1]
    assert duplicates.components(hashes, 2, np.array([7, 5, 5, 9, 8])).tolist() == [0, 1, 1, 1, 2]


@pytest.mark.parametrize("bits", [0, 3, 6])
def test_nearest_is_the_nearest(bits: int) -> None:
    hashes = scattered(11)
    a, b = hashes[::2], hashes[1::2]
    distances = np.where(all_near(a, b, bits), differing(a[:, :1], b[:, :1]), 99)
    index, distance = duplicates.nearest(a, b, bits)
    hit = distances.min(axis=1) <= bits
    assert hit.any()
    assert not hit.all()
    np.testing.assert_array_equal(index, np.where(hit, distances.argmin(axis=1), -1))
    np.testing.assert_array_equal(distance, np.where(hit, distances.min(axis=1), -1))


def test_across_finds_what_lies_in_another_split_only() -> None:
    hashes = scattered(5)
    splits = np.random.default_rng(5).integers(0, 3, len(hashes))
    near = all_near(hashes, hashes, 4) & (splits[:, None] != splits[None])
    index, distance = duplicates.nearest_across(hashes, splits, 4)
    np.testing.assert_array_equal(index >= 0, near.any(axis=1))
    found = np.flatnonzero(index >= 0)
    assert near[found, index[found]].all()
    assert distance[found].tolist() == [
        codecs.hamming(int(a), int(b)) for a, b in zip(hashes[found, 0], hashes[index[found], 0], strict=True)
    ]


def test_the_summary_counts_images_groups_and_crossings() -> None:
    base = int(np.random.default_rng(2).integers(2**62, 2**64, dtype=np.uint64))
    hashes = rows(base, base ^ 1, base ^ 0xFF00, base ^ 0xFF01, base ^ 0xFF0000FF)
    found = duplicates.summary(list("abcde").__getitem__, hashes, np.array([0, 1, 0, 0, 1]), bits=2)
    assert found == duplicates.NearDuplicates(2, alike=4, groups=2, crossing=2, examples=(("a", "b", 1),))


def table(*shown: np.ndarray) -> pa.Table:
    """The columns of pictures, in chunks of which the second does not begin where its memory does."""
    words = pa.array([codecs.difference_hash(image) for image in shown], pa.uint64())
    fine = pa.array([codecs.fine_hash(image) for image in shown], pa.binary(32))
    columns = dict(zip(duplicates.COLUMNS, (words, fine), strict=True))
    return pa.concat_tables([pa.table(columns)[:1], pa.table(columns)[1:]])


def test_columns_become_rows_of_five_words() -> None:
    pictures = np.random.default_rng(3).integers(0, 255, (5, 17, 17, 3), dtype=np.uint8)
    whole = table(*pictures)
    for found in (whole, whole[2:], whole.combine_chunks()[2:], whole.filter([False, True, False, True, True])):
        hashes = duplicates.from_columns(found)
        assert hashes[:, 0].tolist() == found["photo_hash"].to_pylist()
        assert [row.tobytes() for row in hashes[:, 1:]] == found["photo_hash_fine"].to_pylist()


@pytest.mark.parametrize("word", range(1, 5))
def test_every_word_of_the_fine_hash_counts(word: int) -> None:
    """One bit more than may differ, and the pictures are two."""
    hashes = scattered(7, 2)[[0, 0, 0]]
    hashes[1, word] ^= np.uint64((1 << FINE_BITS) - 1)
    hashes[2, word] ^= np.uint64((1 << FINE_BITS + 1) - 1)
    assert duplicates.components(hashes[[0, 1]]).tolist() == [0, 0]
    assert duplicates.components(hashes[[0, 2]]).tolist() == [0, 1]
    assert duplicates.nearest(hashes[:1], hashes[1:2])[0].tolist() == [0]
    assert duplicates.nearest(hashes[:1], hashes[2:])[0].tolist() == [-1]


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 8), st.sampled_from([1, 7, 1 << 19]))
def test_near_pairs_are_exactly_those_of_all_pairs(seed: int, count: int, bits: int, block: int) -> None:
    """Few first words, so that many are equal in them and not in the others."""
    hashes = scattered(seed, count)
    hashes[:, 0] &= np.uint64(0xF0F0F0F00000000F)
    a = np.unique(hashes, axis=0)
    b = np.unique(scattered(seed + 1, count) ^ hashes[:1].sum(axis=0), axis=0)[: count // 3]
    b = np.unique(np.concatenate([b, a[::2]]), axis=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK", block)
        within = {pair for i, j in duplicates._near(a, a, bits) for pair in zip(i.tolist(), j.tolist(), strict=True)}
        between = {pair for i, j in duplicates._near(a, b, bits) for pair in zip(i.tolist(), j.tolist(), strict=True)}
    assert {frozenset(pair) for pair in within} == {
        frozenset((i, j)) for i, j in np.argwhere(all_near(a, a, bits)).tolist() if i != j
    }
    assert all(i != j for i, j in within)
    assert between == {(i, j) for i, j in np.argwhere(all_near(a, b, bits)).tolist()}


def test_pictures_that_say_nothing_match_nothing() -> None:
    """A blank page and a smooth gradient are not copies of other ones; they are not even compared with themselves."""
    blank = np.full((64, 64, 3), 250, np.uint8)
    gradient = np.repeat(np.linspace(0, 255, 90, dtype=np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    photo = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    shown = (blank, blank, gradient, gradient, photo, photo)
    hashes = duplicates.from_columns(table(*shown))
    assert duplicates.distinctive(hashes).tolist() == [False] * 4 + [True] * 2
    assert duplicates.components(hashes).tolist() == [0, 1, 2, 3, 4, 4]
    assert duplicates.nearest(hashes, hashes)[0].tolist() == [-1, -1, -1, -1, 4, 4]


@pytest.mark.parametrize("bits", [1, 4])
def test_hashes_near_all_equal_bits_say_nothing(bits: int) -> None:
    few = 2 * bits
    hashes = rows((1 << few) - 1, (1 << few + 1) - 1, 2**64 - (1 << few), 2**64 - (1 << few + 1))
    assert duplicates.distinctive(hashes, bits).tolist() == [False, True, False, True]


def test_no_images_are_no_trouble() -> None:
    none = duplicates.from_columns(table())
    assert none.shape == (0, 5)
    assert duplicates.components(none).tolist() == []
    assert duplicates.nearest(none, scattered(0))[0].tolist() == []
    assert duplicates.nearest(scattered(0, 4), none)[0].tolist() == [-1] * 4
    assert duplicates.summary(str, none, np.zeros(0, np.int64)).alike == 0


def test_a_hundred_thousand_equal_hashes_are_one_value() -> None:
    """Compared pair by pair they would take minutes, and their pairs 80 GB."""
    hashes = rows(0x0F1E2D3C4B5A6978).repeat(100_000, axis=0)
    assert not duplicates.components(hashes).any()
    assert (duplicates.nearest_across(hashes, np.arange(100_000) % 2)[0] >= 0).all()


def test_equal_first_words_with_other_fine_hashes_take_no_more_memory_than_a_few_blocks() -> None:
    """Two million pairs of one first word: kept as pairs, they would be 32 MB and more."""
    hashes = np.random.default_rng(4).integers(0, 2**64, (2000, 5), dtype=np.uint64)
    hashes[:, 0] = 0x0F1E2D3C4B5A6978
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK", 1 << 14)
        tracemalloc.start()
        found = duplicates.components(hashes)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert found.tolist() == list(range(2000))
    assert peak < 8 << 20
