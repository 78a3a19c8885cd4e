"""The cache of features: computed once for each view, rounded alike whether they were stored or not."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import stored_dataset
import torch
from fault_proxy import FaultProxy
from support import tiny
from torch import Tensor

from mpc_model.errors import MPCError
from pipelines.dataset.batch import Batch, DeviceBatch
from pipelines.dataset.loader import PixelLoader
from pipelines.dataset.order import Cursor
from pipelines.training.feature_cache import FeatureCache

SHAPES = [(1, 4, 4), (3, 2, 2)]


class Encoder:
    """Two maps of an image, and a count of the images that it was given; black ones fill a batch."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: Tensor) -> list[Tensor]:
        self.images += int(images.flatten(1).any(1).sum())
        return [images.mean(1, keepdim=True) / 3, images[:, :, ::2, ::2] / 7]


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(str(tmp_path), SHAPES)


def inputs(images: Tensor, *keys: str) -> DeviceBatch:
    """A batch whose features the loader did not look for."""
    return DeviceBatch(images, torch.zeros(len(images), 4, 4), keys=keys)


def loaded(cache: FeatureCache, images: Tensor, keys: Sequence[str]) -> DeviceBatch:
    """A batch as the loader gives it: features where they are stored, images elsewhere."""
    maps = [cache.load(key) for key in keys]
    cached = [place for place, found in enumerate(maps) if found]
    levels = zip(*(found for found in maps if found), strict=True)
    features = [torch.stack([torch.from_numpy(level) for level in same]) for same in levels]
    others = [place for place in range(len(keys)) if place not in cached]
    return inputs(images[others], *keys)._replace(features=features, cached=cached)


@pytest.mark.parametrize("as_loaded", [True, False])
def test_only_views_that_are_not_stored_are_computed(tmp_path: Path, cache: FeatureCache, as_loaded: bool) -> None:
    encoder = Encoder()
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = [level.half().float() for level in encoder(images)]
    encoder.images = 0
    first = cache.features(encoder, inputs(images[1:], "1-0", "2-1"))
    assert encoder.images == 2
    keys = ("0-0", "1-0", "2-1")
    again = cache.features(encoder, loaded(cache, images, keys) if as_loaded else inputs(images, *keys))
    assert encoder.images == 3
    for level, whole, part in zip(expected, again, first, strict=True):
        assert whole.dtype == torch.float32
        assert torch.equal(whole, level)
        assert torch.equal(part, level[1:])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{key}.safetensors" for key in keys]
    assert cache.stored() == {*keys}


def test_stored_features_need_no_images(cache: FeatureCache) -> None:
    encoder, keys = Encoder(), ("0-0", "1-1")
    stored = cache.features(encoder, inputs(torch.rand(2, 3, 4, 4), *keys))
    batch = loaded(cache, torch.empty(2, 3, 4, 4), keys)
    assert len(batch.images) == 0
    assert all(level.dtype == torch.float16 for level in batch.features)
    again = cache.features(encoder, batch)
    assert encoder.images == 2
    assert all(torch.equal(a, b) for a, b in zip(stored, again, strict=True))


def test_what_is_stored_after_the_loader_looked_is_not_computed_again(cache: FeatureCache) -> None:
    """The loader is some batches ahead, and a source with repeats shows views twice: no bit may depend on it."""
    encoder, images = Encoder(), torch.rand(1, 3, 4, 4)
    early = loaded(cache, images, ["0-0"])
    stored = cache.features(encoder, inputs(images, "0-0"))
    again = cache.features(encoder, early)
    assert encoder.images == 1
    assert all(torch.equal(a, b) for a, b in zip(stored, again, strict=True))


def test_a_view_has_the_same_bits_whatever_else_its_batch_computes(tmp_path: Path) -> None:
    """An interrupted run has stored some views of a batch; two ranks may compute the same one in different batches.

    This network rounds a single image in another way than six of them."""
    model, images = tiny(), torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        shapes = [tuple(level.shape[1:]) for level in model.encoder(images[:1])]
        found = []
        for name, batches in (("whole", [range(6)]), ("parts", [(4,), (0, 2), (5, 4, 3, 3, 1)])):
            cache = FeatureCache(str(tmp_path / name), shapes, 6)
            for batch in batches:
                cache.features(model.encoder, inputs(images[list(batch)], *(f"{row}-0" for row in batch)))
            found.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert len(found[0]) == 6
    assert found[0] == found[1]


def test_ranks_that_store_the_same_views_at_once_leave_whole_files(tmp_path: Path) -> None:
    """As with a source that is repeated: a reader finds a whole file, or none."""
    images = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    keys = [f"{row}-0" for row in range(4)]
    start, seen = threading.Barrier(3), list[bool]()

    def store(turn: int) -> None:
        start.wait(60)
        for key in keys[turn:] + keys[:turn]:
            cache = FeatureCache(str(tmp_path), SHAPES)
            cache.load = lambda key: None  # type: ignore[method-assign]  # neither finds what the other has stored
            row = keys.index(key)
            cache.features(Encoder(), inputs(images[row : row + 1], key))

    def read() -> None:
        cache = FeatureCache(str(tmp_path), SHAPES)
        start.wait(60)
        for _ in range(50):
            for file in tmp_path.glob("?-0.safetensors"):
                seen.append(cache.load(file.stem) is not None)

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(store, 0), pool.submit(store, 2), pool.submit(read)]:
            done.result()
    assert all(seen)
    expected = [level.half() for level in Encoder()(images)]
    for row, key in enumerate(keys):
        stored = FeatureCache(str(tmp_path), SHAPES).load(key)
        assert stored is not None
        assert all(torch.equal(torch.from_numpy(a), b[row]) for a, b in zip(stored, expected, strict=True))
    assert len(list(tmp_path.iterdir())) == 4


def test_a_view_that_comes_twice_in_a_batch_is_computed_once(cache: FeatureCache) -> None:
    encoder, image = Encoder(), torch.rand(1, 3, 4, 4)
    twice = cache.features(encoder, inputs(image.expand(2, -1, -1, -1), "0-0", "0-0"))
    assert encoder.images == 1
    assert all(torch.equal(level[0], level[1]) for level in twice)


def test_a_job_that_has_lost_its_lease_stores_nothing(tmp_path: Path, cache: FeatureCache) -> None:
    def lost() -> None:
        raise MPCError("another job took over")

    cache.check_lease = lost
    with pytest.raises(MPCError, match="another job took over"):
        cache.features(Encoder(), inputs(torch.rand(1, 3, 4, 4), "0-0"))
    assert list(tmp_path.iterdir()) == []


def test_reading_features_takes_one_request(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(f"{s3}/features", SHAPES)
    cache.features(Encoder(), inputs(torch.rand(1, 3, 4, 4), "0-0"))
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], share=0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert cache.load("0-0") is not None
        assert cache.load("1-0") is None
        assert proxy.counts.total() == 2


def test_a_cache_that_is_not_there_yet_stores_nothing(tmp_path: Path) -> None:
    assert FeatureCache(str(tmp_path / "later"), SHAPES).stored() == set()


def test_a_damaged_file_is_written_again(tmp_path: Path, cache: FeatureCache) -> None:
    encoder, batch = Encoder(), inputs(torch.ones(1, 3, 4, 4), "0-0")
    cache.features(encoder, batch)
    file = tmp_path / "0-0.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert cache.load("0-0") is None
    cache.features(encoder, batch)
    assert encoder.images == 2
    assert file.read_bytes() == whole


INFINITE = torch.full((1, 4, 4), torch.inf).half()
STRANGE = {
    "nothing": {},
    "other names": {"0": torch.ones(1, 4, 4).half(), "7": torch.ones(3, 2, 2).half()},
    "another type": {"0": torch.ones(1, 4, 4), "1": torch.ones(3, 2, 2)},
    "a type that NumPy lacks": {"0": torch.ones(1, 4, 4).bfloat16(), "1": torch.ones(3, 2, 2).half()},
    "no maps": {"0": torch.ones(4).half(), "1": torch.ones(2).half()},
    "infinite": {"0": INFINITE, "1": torch.ones(3, 2, 2).half()},
    "not a number": {"0": INFINITE - INFINITE, "1": torch.ones(3, 2, 2).half()},
    "another size": {"0": torch.ones(1, 8, 8).half(), "1": torch.ones(3, 2, 2).half()},
    "fewer maps": {"0": torch.ones(1, 4, 4).half()},
}


@pytest.mark.parametrize("tensors", STRANGE.values(), ids=STRANGE)
def test_a_file_that_holds_something_else_is_written_again(
    tmp_path: Path, cache: FeatureCache, tensors: dict[str, Tensor]
) -> None:
    encoder, keys = Encoder(), ("0-0", "1-0")
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = cache.features(encoder, inputs(images, *keys))
    whole = (tmp_path / "0-0.safetensors").read_bytes()
    (tmp_path / "0-0.safetensors").write_bytes(safetensors.torch.save(tensors))
    assert cache.load("0-0") is None
    again = cache.features(encoder, loaded(cache, images, keys))
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert (tmp_path / "0-0.safetensors").read_bytes() == whole


def test_the_largest_and_smallest_numbers_of_half_precision_are_finite(tmp_path: Path, cache: FeatureCache) -> None:
    for value in (65504.0, -65504.0, 6e-8, -0.0):
        maps = {"0": torch.full((1, 4, 4), value).half(), "1": torch.ones(3, 2, 2).half()}
        (tmp_path / "0-0.safetensors").write_bytes(safetensors.torch.save(maps))
        found = cache.load("0-0")
        assert found is not None
        assert torch.equal(torch.from_numpy(found[0]), maps["0"])


def epochs(uri: str, manifest: object, cache: FeatureCache, encoder: Encoder, count: int) -> list[list[Batch]]:
    """What the loader gives for some epochs, each batch completed by a step that computes what is missing."""
    given = []
    for epoch in range(count):
        loader = PixelLoader(
            uri, manifest, "train", input_size=4, seed=1, batch_size=3, symmetries=False, features=cache
        )
        given.append([])
        for batch in loader.epoch(Cursor(epoch)):
            given[-1].append(batch)
            cache.features(encoder, batch.to(torch.device("cpu")))
    return given


def test_the_loader_reads_features_and_masks_and_no_image_where_all_are_stored(tmp_path: Path) -> None:
    uri, cache, encoder = str(tmp_path / "dataset"), FeatureCache(str(tmp_path / "cache"), SHAPES), Encoder()
    manifest = stored_dataset.write(uri, shards=2, rows=8, row_group=4, views=1, side=9)
    first, second = epochs(uri, manifest, cache, encoder, 2)
    assert encoder.images == 16
    assert all(len(batch.images) == len(batch.ids) and not batch.cached for batch in first)
    plain = PixelLoader(uri, manifest, "train", input_size=4, seed=1, batch_size=3, symmetries=False).epoch(Cursor(1))
    for batch, whole in zip(second, plain, strict=True):
        assert (batch.ids, batch.keys, batch.progress) == (whole.ids, whole.keys, whole.progress)
        assert torch.equal(batch.masks, whole.masks)
        assert batch.images.shape == (0, 4, 4, 3)
        assert batch.cached == list(range(len(batch.ids)))
        expected = encoder(whole.to(torch.device("cpu")).images)
        assert all(torch.equal(a, b.half()) for a, b in zip(batch.features, expected, strict=True))


def test_the_loader_gives_the_image_where_stored_features_are_damaged(tmp_path: Path) -> None:
    uri, cache, encoder = str(tmp_path / "dataset"), FeatureCache(str(tmp_path / "cache"), SHAPES), Encoder()
    manifest = stored_dataset.write(uri, shards=2, rows=8, row_group=4, views=1, side=9)
    epochs(uri, manifest, cache, encoder, 1)
    files = {file: file.read_bytes() for file in (tmp_path / "cache").iterdir()}
    (tmp_path / "cache" / "5-0.safetensors").write_bytes(b"damaged")
    (tmp_path / "cache" / "11-0.safetensors").unlink()
    encoder.images = 0
    (again,) = epochs(uri, manifest, cache, encoder, 1)
    assert encoder.images == 2
    with_image = {batch.keys[place] for batch in again for place in range(len(batch.keys)) if place not in batch.cached}
    assert with_image == {"5-0", "11-0"}
    assert {file: file.read_bytes() for file in (tmp_path / "cache").iterdir()} == files
