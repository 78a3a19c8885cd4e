"""The order of samples: every row once an epoch, equal batch counts, and cursors that resume exactly."""

import itertools
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dataset.order import Cursor, Segment, entries, epoch_batches, steps_left

FINGERPRINT = "ab12cd34ef56ab78" * 4


def batches_left(count: int, cursor: Cursor, world: int, batch_size: int, group: int = 4, seed: int = 3):
    sizes = np.array([min(group, count - start) for start in range(0, count, group)], np.int64)
    rows, groups = entries(sizes, np.ones_like(sizes))
    return epoch_batches(
        rows, groups, fingerprint=FINGERPRINT, seed=seed, cursor=cursor, world=world, batch_size=batch_size
    )


def flat(rank_batches) -> list[int]:
    return [int(row) for batches in rank_batches for batch in batches for row in batch]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 200), st.integers(1, 5), st.integers(1, 9), st.integers(0, 3))
def test_every_row_comes_once_and_every_rank_has_as_many_batches(count, world, batch_size, epoch) -> None:
    rank_batches = batches_left(count, Cursor(epoch), world, batch_size)
    assert sorted(flat(rank_batches)) == list(range(count))
    assert len({len(batches) for batches in rank_batches}) == 1
    sizes = [len(batch) for batches in rank_batches for batch in batches]
    assert max(sizes) <= batch_size
    if count >= world and batch_size > 1:
        assert min(sizes) >= 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 150), st.integers(1, 4), st.integers(1, 6), st.data())
def test_resuming_with_the_same_world_gives_the_rest_of_the_same_batches(count, world, batch_size, data) -> None:
    whole = batches_left(count, Cursor(2), world, batch_size)
    steps = data.draw(st.integers(0, len(whole[0])))
    rest = batches_left(count, Cursor(2).advanced(world, batch_size, steps), world, batch_size)
    assert steps_left(count, Cursor(2).advanced(world, batch_size, steps), world, batch_size) == len(rest[0])
    for full, remaining in zip(whole, rest, strict=True):
        assert [batch.tolist() for batch in full[steps:]] == [batch.tolist() for batch in remaining]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 150), st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=2, max_size=4), st.data()
)
def test_changes_of_world_still_give_every_row_once(count, worlds, data) -> None:
    cursor, seen = Cursor(1), []
    for index, (world, batch_size) in enumerate(worlds):
        rank_batches = batches_left(count, cursor, world, batch_size)
        assert steps_left(count, cursor, world, batch_size) == len(rank_batches[0])
        last = index == len(worlds) - 1
        steps = len(rank_batches[0]) if last else data.draw(st.integers(0, len(rank_batches[0])))
        seen += flat([batches[:steps] for batches in rank_batches])
        cursor = cursor.advanced(world, batch_size, steps)
    assert sorted(seen) == list(range(count))


def test_order_depends_on_seed_epoch_and_fingerprint_only() -> None:
    first = flat(batches_left(100, Cursor(0), 1, 4))
    assert first == flat(batches_left(100, Cursor(0), 1, 4))
    assert first != flat(batches_left(100, Cursor(1), 1, 4))
    assert first != flat(batches_left(100, Cursor(0), 1, 4, seed=4))


def test_rows_of_a_window_are_mixed_and_not_left_in_their_groups() -> None:
    order = flat(batches_left(128, Cursor(0), 1, 8, group=8))
    runs = sum(a // 8 == b // 8 for a, b in itertools.pairwise(order))
    assert runs < 40  # unmixed groups would give 112


def test_a_rank_reads_its_own_row_groups() -> None:
    rank_batches = batches_left(4096, Cursor(0), 4, 8, group=16)
    touched = [{row // 16 for row in flat([batches])} for batches in rank_batches]
    assert sum(len(groups) for groups in touched) <= 4096 // 16 + 3


def test_repeats_draw_a_source_as_often_as_asked() -> None:
    rows, groups = entries(np.array([3, 2]), np.array([1, 4]))
    assert Counter(rows.tolist()) == {0: 1, 1: 1, 2: 1, 3: 4, 4: 4}
    rank_batches = epoch_batches(rows, groups, fingerprint=FINGERPRINT, seed=0, cursor=Cursor(), world=2, batch_size=3)
    assert Counter(int(rows[p]) for p in flat(rank_batches)) == {0: 1, 1: 1, 2: 1, 3: 4, 4: 4}


def test_the_cursor_survives_json() -> None:
    cursor = Cursor(4, (Segment(2, 8, 10), Segment(1, 8, 3)))
    assert Cursor.from_json(cursor.to_json()) == cursor
