"""Near-duplicates: every pair that a search over all pairs finds, and nothing else; chains, borders, empty pictures."""

import numpy as np
import pytest

from mpc_model import images
from pipelines import duplicates
from pipelines.duplicates import Hashes


def scattered(seed: int, count: int = 400) -> Hashes:
    """Random hashes, half of them copies of others with up to six bits flipped, some equal."""
    generator = np.random.default_rng(seed)
    hashes = generator.integers(0, 2**64, count, dtype=np.uint64)
    hashes[count // 2 :] = hashes[generator.integers(0, count // 2, count - count // 2)]
    for flips in range(6):
        some = slice(count // 2 + flips * count // 12, count)
        hashes[some] ^= np.uint64(1) << generator.integers(0, 64, count, dtype=np.uint64)[some]
    return hashes


def all_near(a: Hashes, b: Hashes, bits: int) -> np.ndarray:
    """(N, M) whether two hashes are within `bits`, by looking at every pair bit by bit."""
    differing = (a[:, None] ^ b[None]).view(np.uint8).reshape(len(a), len(b), 8)
    return np.unpackbits(differing, axis=2).sum(axis=2) <= bits


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
    hashes = np.array([first, first ^ 0b1011, second, second ^ 1, other], np.uint64)
    labels = duplicates.components(hashes, 3, np.array([7, 5, 5, 9, 8]))
    assert labels.tolist() == [0, 0, 0, 0, 1]
    assert duplicates.components(hashes, 2, np.array([7, 5, 5, 9, 8])).tolist() == [0, 1, 1, 1, 2]


@pytest.mark.parametrize("bits", [0, 3, 6])
def test_nearest_is_the_nearest(bits: int) -> None:
    hashes = scattered(11)
    a, b = hashes[::2], hashes[1::2]
    distances = np.array([[images.hamming(int(one), int(other)) for other in b] for one in a])
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
    index, distance = duplicates.across(hashes, splits, 4)
    np.testing.assert_array_equal(index >= 0, near.any(axis=1))
    found = np.flatnonzero(index >= 0)
    assert near[found, index[found]].all()
    assert distance[found].tolist() == [
        images.hamming(int(a), int(b)) for a, b in zip(hashes[found], hashes[index[found]], strict=True)
    ]


def test_the_summary_counts_images_groups_and_crossings() -> None:
    base = int(np.random.default_rng(2).integers(2**62, 2**64, dtype=np.uint64))
    hashes = np.array([base, base ^ 1, base ^ 0xFF00, base ^ 0xFF01, base ^ 0xFF0000FF], np.uint64)
    found = duplicates.summary(list("abcde"), hashes, np.array([0, 1, 0, 0, 1]), bits=2)
    assert found == duplicates.NearDuplicates(2, alike=4, groups=2, crossing=2, examples=(("a", "b", 1),))


def test_pictures_that_say_nothing_match_nothing() -> None:
    """A blank page and a smooth gradient are not copies of other ones; they are not even compared with themselves."""
    blank = np.full((64, 64, 3), 250, np.uint8)
    gradient = np.repeat(np.linspace(0, 255, 90, dtype=np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    photo = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    shown = (blank, blank, gradient, gradient, photo, photo)
    hashes = np.array([images.difference_hash(image) for image in shown], np.uint64)
    assert duplicates.telling(hashes).tolist() == [False] * 4 + [True] * 2
    assert duplicates.components(hashes).tolist() == [0, 1, 2, 3, 4, 4]
    assert duplicates.nearest(hashes, hashes)[0].tolist() == [-1, -1, -1, -1, 4, 4]


@pytest.mark.parametrize("bits", [1, 4])
def test_hashes_near_all_equal_bits_say_nothing(bits: int) -> None:
    few = 2 * bits
    hashes = np.array([(1 << few) - 1, (1 << few + 1) - 1, 2**64 - (1 << few), 2**64 - (1 << few + 1)], np.uint64)
    assert duplicates.telling(hashes, bits).tolist() == [False, True, False, True]


def test_no_images_are_no_trouble() -> None:
    none = np.zeros(0, np.uint64)
    assert duplicates.components(none).tolist() == []
    assert duplicates.nearest(none, scattered(0))[0].tolist() == []
    assert duplicates.nearest(scattered(0, 4), none)[0].tolist() == [-1] * 4
    assert duplicates.summary([], none, np.zeros(0, np.int64)).alike == 0


def test_a_hundred_thousand_equal_hashes_are_one_value() -> None:
    """Compared pair by pair they would take minutes, and their pairs 80 GB."""
    hashes = np.full(100_000, 0x0F1E2D3C4B5A6978, np.uint64)
    assert not duplicates.components(hashes).any()
    assert (duplicates.across(hashes, np.arange(100_000) % 2)[0] >= 0).all()
