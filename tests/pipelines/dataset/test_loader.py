"""The loader: batches of stored views against the rows of the files, one by one, and the same from any cursor."""

import heapq
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import stored_dataset
import torch
from fault_proxy import FaultProxy

from mpc_model.classes import IGNORED
from mpc_model.errors import DamagedError
from mpc_model.imaging import codecs
from pipelines.config.root import Config
from pipelines.dataset.batch import Batch, scaled
from pipelines.dataset.loader import PixelLoader
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.order import Cursor
from pipelines.dataset.read_ahead import REMOTE_THREADS, ReadAhead
from pipelines.dataset.reader import ShardReader, decode_view
from pipelines.dataset.schema import Row

SIZE = 48


@pytest.fixture(scope="module")
def dataset(built: Config) -> tuple[str, Manifest]:
    uri = str(built.build.output)
    return uri, Manifest.read(uri)


def loader(dataset: tuple[str, Manifest], split: str = "train", **more: Any) -> PixelLoader:
    return PixelLoader(*dataset, split, **{"input_size": SIZE, "seed": 3, "batch_size": 4} | more)


def rows_of(dataset: tuple[str, Manifest], split: str = "train") -> list[Row]:
    reader = ShardReader(*dataset, split)
    return [row for group in range(len(reader.sizes)) for row in reader.read(group)]


def decoded(row: Row, view: int) -> tuple[np.ndarray, np.ndarray]:
    """A stored view at the input size: image (SIZE, SIZE, 3) and mask (SIZE, SIZE)."""
    image = codecs.decode_image(row["views"][view]["image"], "row")
    mask = codecs.decode_mask(row["views"][view]["mask"], "row")
    return (
        cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR),
        cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST),
    )


def test_a_batch_says_which_samples_are_forged(dataset: tuple[str, Manifest]) -> None:
    kinds = {row["id"]: row["kind"] for row in rows_of(dataset)}
    assert set(kinds.values()) > {"authentic"}
    for batch in loader(dataset, scribbles=True).epoch(Cursor()):
        assert batch.forged.tolist() == [kinds[name] != "authentic" for name in batch.ids]
        assert batch.scribbles is None  # the dataset has none


def symmetries(image: np.ndarray) -> list[np.ndarray]:
    """The eight symmetries of the square."""
    return [turned for k in range(4) for turned in (np.rot90(image, k), np.fliplr(np.rot90(image, k)))]


def test_without_symmetries_a_batch_shows_the_views_that_its_keys_name(dataset: tuple[str, Manifest]) -> None:
    rows, views = rows_of(dataset), Counter[int]()
    for epoch in range(3):
        for batch in loader(dataset, symmetries=False).epoch(Cursor(epoch)):
            assert batch.images.dtype == batch.masks.dtype == torch.uint8
            assert batch.second_images is batch.second_masks is None
            for sample, key, image, mask in zip(batch.ids, batch.keys, batch.images, batch.masks, strict=True):
                row, view = map(int, key.split("-"))
                views[view] += 1
                assert sample == rows[row]["id"]
                expected_image, expected_mask = decoded(rows[row], view)
                np.testing.assert_array_equal(image.numpy(), expected_image)
                np.testing.assert_array_equal(mask.numpy(), expected_mask)
    assert set(views) == set(range(dataset[1].views))


def test_with_symmetries_image_and_mask_have_the_same_one_and_all_eight_come(dataset: tuple[str, Manifest]) -> None:
    rows, seen = rows_of(dataset), Counter[int]()
    for epoch in range(6):
        for batch in loader(dataset).epoch(Cursor(epoch)):
            for key, image, mask in zip(batch.keys, batch.images, batch.masks, strict=True):
                row, view = map(int, key.split("-"))
                expected_image, expected_mask = decoded(rows[row], view)
                both = zip(symmetries(expected_image), symmetries(expected_mask), strict=True)
                fits = [
                    number
                    for number, (its_image, its_mask) in enumerate(both)
                    if np.array_equal(image, its_image) and np.array_equal(mask, its_mask)
                ]
                assert fits
                seen.update(fits)
    assert set(seen) == set(range(8))


def test_pairs_show_another_stored_view_of_the_same_sample(dataset: tuple[str, Manifest]) -> None:
    rows = rows_of(dataset)
    assert dataset[1].views == 2
    for batch in loader(dataset, symmetries=False, pairs=True).epoch(Cursor()):
        assert batch.second_images is not None
        assert batch.second_masks is not None
        for key, image, mask in zip(batch.keys, batch.second_images, batch.second_masks, strict=True):
            row, view = map(int, key.split("-"))
            expected_image, expected_mask = decoded(rows[row], 1 - view)
            np.testing.assert_array_equal(image.numpy(), expected_image)
            np.testing.assert_array_equal(mask.numpy(), expected_mask)


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.masks, b.masks) and (a.ids, a.keys) == (b.ids, b.keys)


@pytest.mark.parametrize("threads", [1, 4])
def test_batches_do_not_depend_on_threads_and_go_on_from_a_cursor(dataset: tuple[str, Manifest], threads: int) -> None:
    whole = list(loader(dataset).epoch(Cursor(1)))
    again = list(loader(dataset, threads=threads).epoch(Cursor(1)))
    rest = list(loader(dataset, threads=threads).epoch(Cursor(1).advanced(1, 4, 2)))
    assert len(whole) > 2
    assert all(same(a, b) for a, b in zip(whole, again, strict=True))
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))
    assert not same(whole[0], next(loader(dataset).epoch(Cursor(2))))
    assert not same(whole[0], next(loader(dataset, seed=4).epoch(Cursor(1))))


@pytest.mark.parametrize(("world", "batch_size"), [(1, 4), (2, 3)])
def test_progress_is_the_share_of_samples_that_all_ranks_have_had(
    dataset: tuple[str, Manifest], world: int, batch_size: int
) -> None:
    ranks = [
        list(loader(dataset, rank=rank, world=world, batch_size=batch_size).epoch(Cursor())) for rank in range(world)
    ]
    total, done = dataset[1].splits["train"].samples, 0
    for batches in zip(*ranks, strict=True):
        done += sum(len(batch.ids) for batch in batches)
        assert {batch.progress for batch in batches} == {1 - (total - done) / total}
    assert done == total == len(loader(dataset))


def test_an_epoch_that_is_done_has_no_batches(dataset: tuple[str, Manifest]) -> None:
    one = loader(dataset)
    steps = len(list(one.epoch(Cursor())))
    assert list(one.epoch(Cursor().advanced(1, 4, steps))) == []
    assert list(one.epoch(Cursor().advanced(1, 4, steps).advanced(2, 4, 0))) == []


def test_a_rank_without_samples_gets_one_that_is_ignored(dataset: tuple[str, Manifest]) -> None:
    samples = dataset[1].splits["test"].samples
    ranks = [
        list(loader(dataset, "test", batch_size=1, rank=rank, world=samples - 1, pairs=True).epoch(Cursor()))
        for rank in range(samples - 1)
    ]
    fillers = [batches[1] for batches in ranks if (batches[1].masks == IGNORED).all()]
    assert len(fillers) == samples - 2
    assert all((batch.second_masks == IGNORED).all() for batch in fillers if batch.second_masks is not None)


def test_fixed_samples_are_canonical_balanced_and_always_the_same(dataset: tuple[str, Manifest]) -> None:
    rows = rows_of(dataset)
    first, again = loader(dataset).fixed(6), loader(dataset, seed=99).fixed(6)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    keys = [key for batch in first for key in batch.keys]
    assert {key.split("-")[1] for key in keys} == {"0"}
    kinds = [rows[int(key.split("-")[0])]["kind"] != "authentic" for key in keys]
    assert sorted(kinds) == [False] * 3 + [True] * 3


@pytest.mark.parametrize("world", [2, 9])
def test_each_rank_has_its_share_of_the_fixed_batches(dataset: tuple[str, Manifest], world: int) -> None:
    """In a world of nine there are fewer batches than ranks."""
    alone = loader(dataset, batch_size=2).fixed(10)
    assert 2 < len(alone) < 9
    for rank in range(world):
        own = loader(dataset, batch_size=2, rank=rank, world=world).fixed(10)
        assert all(same(a, b) for a, b in zip(own, alone[rank::world], strict=True))


def test_more_samples_than_there_are_gives_all_that_fit(dataset: tuple[str, Manifest]) -> None:
    counts = dataset[1].splits["train"]
    keys = [key for batch in loader(dataset).fixed(1000) for key in batch.keys]
    assert len(keys) == len(set(keys)) == counts.samples


def test_on_its_device_a_batch_is_what_a_network_takes(dataset: tuple[str, Manifest]) -> None:
    batch = next(loader(dataset, pairs=True).epoch(Cursor()))
    moved = batch.to(torch.device("cpu"))
    expected = torch.from_numpy(batch.images.numpy().transpose(0, 3, 1, 2).astype(np.float32) / 255)
    torch.testing.assert_close(moved.images, expected, rtol=0, atol=1e-7)
    assert moved.images.shape == (4, 3, SIZE, SIZE)
    assert torch.equal(moved.masks, batch.masks)
    assert batch.second_images is not None
    assert moved.second_images is not None
    assert torch.equal(moved.second_images, scaled(batch.second_images, torch.device("cpu")))
    assert moved.keys == batch.keys


def test_a_drawn_view_is_in_memory_until_it_is_decoded(
    dataset: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the two stored views of a sample, one is drawn: the other one is not held."""
    made: list[ReadAhead[Any]] = []
    monkeypatch.setattr("pipelines.dataset.loader.ReadAhead", lambda *given: made.append(ReadAhead(*given)) or made[-1])
    one = loader(dataset, batch_size=1)
    held = []
    for _ in one.epoch(Cursor()):
        (ahead,) = made
        wait([future for future in ahead._futures if not future.cancelled()])
        held.append(ahead._held)
    stored = sum(len(view["image"]) + len(view["mask"]) for row in rows_of(dataset) for view in row["views"])
    assert 0 < max(held) < 0.7 * stored
    assert sorted(held, reverse=True) == held
    assert held[-1] == 0


@pytest.mark.parametrize(("limit", "batches"), [(1 << 20, 16), (120_000, 4), (1000, 1)])
def test_memory_bounds_the_batches_that_are_made_ahead(
    dataset: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch, limit: int, batches: int
) -> None:
    """A batch of one sample takes 9,216 bytes; besides those ahead there is one that was given out, and a copy."""
    monkeypatch.setattr("pipelines.dataset.loader.LIMIT", limit)
    decoded = threading.Semaphore(0)

    def counted(*given: Any) -> Any:
        decoded.release()
        return decode_view(*given)

    whole = list(loader(dataset, batch_size=1).epoch(Cursor()))
    monkeypatch.setattr("pipelines.dataset.loader.decode_view", counted)
    given = loader(dataset, batch_size=1, threads=8).epoch(Cursor())
    assert same(next(given), whole[0])
    expected = min(batches + 1, len(whole))
    assert all(decoded.acquire(timeout=60) for _ in range(expected))
    given.close()
    assert not decoded.acquire(blocking=False)  # nothing more, however long a step takes
    again = loader(dataset, batch_size=1, threads=8).epoch(Cursor())
    assert all(same(a, b) for a, b in zip(again, whole, strict=True))


STEP = 0.03
"""Seconds of computing that stand for a step of training."""


@pytest.fixture(scope="module")
def far_away(s3: str) -> Iterator[tuple[str, Manifest, FaultProxy]]:
    """A dataset on S3 of 48 row groups in 6 shards, whose requests take 20 ms each."""
    uri = f"{s3}/far-away"
    manifest = stored_dataset.write(uri, shards=6, rows=32, row_group=4, views=2)
    before = os.environ["AWS_ENDPOINT_URL"]
    with FaultProxy(before, share=0, latency=0.02) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        yield uri, manifest, proxy
        os.environ["AWS_ENDPOINT_URL"] = before


def test_from_object_storage_no_step_waits_longer_than_a_step(far_away: tuple[str, Manifest, FaultProxy]) -> None:
    """A batch of four shows four row groups: read one after the other as they are needed, each takes steps."""
    uri, manifest, proxy = far_away
    steps, waits, asked = list[float](), list[float](), list[int]()
    batches = loader((uri, manifest)).epoch(Cursor())
    before = proxy.counts["passed"]
    while True:
        started = time.monotonic()
        if next(batches, None) is None:
            break
        waits.append(time.monotonic() - started)
        asked.append(proxy.counts["passed"] - before)
        steps.append(_compute())
    assert len(steps) == 48
    # The first row groups come together, as fast as this server answers: those steps are counted below.
    assert max(waits[REMOTE_THREADS // 4 :]) <= max(steps)
    # One request for each row group, and two for each shard: to open it, and to read its footer.
    assert asked[-1] == 48 + 2 * 6
    # The second window of 16 row groups is there before the first one ends.
    assert asked[31] == asked[-1]
    assert proxy.busiest >= 8


LATENCY = 0.02
"""Seconds of a request, where they are counted and not measured."""


class CountedTime(ReadAhead[Any]):
    """Reads whose requests take LATENCY each in a time of their own, as far as threads are free: one for a row group,
    and two before it for the first one of a shard. `now` is when the reads of a step are started."""

    now, groups_of_shard = 0.0, 1

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.free, self.done, self.opened = [0.0] * REMOTE_THREADS, list[float](), dict[int, float]()

    def start(self, needed: int) -> None:
        super().start(needed)
        for read in self._reads[len(self.done) : len(self._futures)]:
            began = max(heapq.heappop(self.free), CountedTime.now)
            shard = read.group // CountedTime.groups_of_shard
            opened = self.opened.setdefault(shard, began + 2 * LATENCY)
            self.done.append(max(began, opened) + LATENCY)
            heapq.heappush(self.free, self.done[-1])


@pytest.mark.parametrize(("shards", "groups"), [(6, 16), (96, 1)])
def test_with_20_ms_a_request_only_the_first_step_waits_for_three_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int, groups: int
) -> None:
    """Three windows of row groups, in shards of many and of one: counted, not measured."""
    manifest = stored_dataset.write(str(tmp_path), shards=shards, rows=4 * groups, row_group=4)
    monkeypatch.setattr(CountedTime, "groups_of_shard", groups)
    made: list[CountedTime] = []
    monkeypatch.setattr(
        "pipelines.dataset.loader.ReadAhead", lambda *given: made.append(CountedTime(*given)) or made[-1]
    )
    one = loader((str(tmp_path), manifest))
    own, _ = one.assigned(Cursor(), one.entries)
    needed, _ = one._plan(own, one.entries)
    waits = list[float]()
    monkeypatch.setattr(CountedTime, "now", 0.0)
    for step, _ in enumerate(one.epoch(Cursor())):
        there = max(made[0].done[number] for number in needed[step])
        waits.append(max(0.0, there - CountedTime.now))
        CountedTime.now += waits[-1] + STEP
    assert len(waits) == 96
    assert waits[0] == pytest.approx(3 * LATENCY)
    assert max(waits[1:]) == 0


def _compute() -> float:
    """Compute for about STEP seconds, more where the machine is busy; the seconds that it took."""
    started, matrix = time.monotonic(), np.ones((64, 64))
    used = time.thread_time()
    while time.thread_time() - used < STEP:
        matrix = matrix @ matrix / 64
    return time.monotonic() - started


def test_an_epoch_that_is_given_up_leaves_no_thread(far_away: tuple[str, Manifest, FaultProxy]) -> None:
    uri, manifest, _ = far_away
    before = set(threading.enumerate())
    batches = loader((uri, manifest)).epoch(Cursor())
    next(batches)
    assert {thread.name.split("_")[0] for thread in set(threading.enumerate()) - before} == {"loader", "reader"}
    batches.close()
    assert set(threading.enumerate()) <= before


def test_a_shard_that_is_lost_is_named_where_its_samples_come(tmp_path: Path) -> None:
    manifest = stored_dataset.write(str(tmp_path), shards=3, rows=8, row_group=4)
    lost = manifest.shards[1].name
    (tmp_path / "shards" / f"{lost}.parquet").unlink()
    with pytest.raises(DamagedError, match=f"shard {lost} of .* is damaged or lost"):
        list(loader((str(tmp_path), manifest)).epoch(Cursor()))
