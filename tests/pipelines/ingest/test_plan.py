"""What every plan promises, over random sources, scenes, near-duplicates and settings, by formulas of its own."""

import hashlib
import random
from collections import Counter, defaultdict
from itertools import combinations
from operator import xor
from typing import Any

import hypothesis
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from mpc_model.errors import DataError, UserError
from pipelines.config.build import BuildConfig, ForgeConfig, SourceConfig, SplitConfig
from pipelines.dataset.duplicates import FINE_BITS
from pipelines.ingest import listing, plan
from pipelines.ingest.plan import Plan, PlannedSample

SPLITS = ("train", "validation", "test")
SCHEMA = pa.unify_schemas(
    [
        listing.SCHEMA,
        pa.schema([("image_sha256", pa.binary()), ("mask_sha256", pa.binary())]),
        pa.schema([("photo_hash", pa.uint64()), ("photo_hash_fine", pa.binary(32))]),
    ]
)
Row = dict[str, Any]
ALMOST, OTHER = (((1 << bits) - 1).to_bytes(32, "big") for bits in (FINE_BITS, FINE_BITS + 1))
"""Fine hashes that are as far from one of zeros as may be, and one bit farther."""
quick = hypothesis.settings(max_examples=40, deadline=None, derandomize=True)


def far(number: int) -> int:
    """Hashes of 32 ones that differ from each other in 32 bits (rows of a Hadamard matrix), for numbers below 64."""
    return sum((((number & place).bit_count()) & 1) << place for place in range(64)) ^ (0 if number else 0xFFFFFFFF)


def good_item(source: str, name: str, **more: Any) -> Row:
    digest = hashlib.sha256(f"{source}/{name}".encode()).digest()
    row = dict.fromkeys(SCHEMA.names) | {"source": source, "name": name, "image": f"/x/{name}", "kind": "photo"}
    hashes = {"photo_hash": int.from_bytes(digest[:8], "big"), "photo_hash_fine": bytes(32)}
    return row | {"mask_rule": "bright", "image_sha256": digest} | hashes | more


def table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


def source_config(name: str, **more: Any) -> SourceConfig:
    return SourceConfig(name=name, layout="photos", location="/x", **more)


def samples(made: Plan) -> list[PlannedSample]:
    return [sample for shard in made.shards for sample in made.samples(shard)]


def splits(made: Plan) -> dict[str, str]:
    """By source/name, the only split of an item."""
    found = {f"{s.source}/{s.image['name']}": s.split for s in samples(made)}
    assert all(found[f"{s.source}/{s.image['name']}"] == s.split for s in samples(made))
    return found


def near(a: Row, b: Row, bits: int) -> bool:
    """By definition: few differing bits in both hashes, of which the first is not nearly even itself."""
    telling = all(2 * bits < row["photo_hash"].bit_count() < 64 - 2 * bits for row in (a, b))
    fine = (int.from_bytes(row["photo_hash_fine"], "big") for row in (a, b))
    return telling and (a["photo_hash"] ^ b["photo_hash"]).bit_count() <= bits and xor(*fine).bit_count() <= FINE_BITS


@st.composite
def sources_and_items(draw: Any) -> tuple[BuildConfig, list[Row]]:
    """One to three sources of photographs and given pairs; scenes of several items; near-duplicates, in chains too.

    Where a source has one split for all, near-duplicates stay inside their source: their splits cannot contradict.
    """
    fixed = draw(st.booleans())
    division = SplitConfig(train=0.5, validation=0.5, test=0.0)
    sources: list[SourceConfig] = []
    rows: list[Row] = []
    for name in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        forge = ForgeConfig(splice=draw(st.sampled_from([0.0, 0.3, 0.5])), copy_move_outline=0.1)
        split = draw(st.sampled_from(["train", "test", None] if fixed else [None, division]))
        sources.append(source_config(name, split=split, forge=forge, samples_per_photo=draw(st.integers(1, 5))))
        rng = random.Random(draw(st.integers(0, 2**32)))
        first = len(rows) if fixed else 0
        for index in range(rng.randint(8, 16)):
            kind = rng.choice(["photo", "photo", "authentic", "splice"])
            photo_hash = far(len(rows))
            if rng.random() < 0.3 and rows[first:]:
                photo_hash = rng.choice(rows[first:])["photo_hash"] ^ rng.choice([1, 6, 24, 3000])
            more = {"group": rng.choice([None] * 8 + ["g", "h"]), "mask": "/x/m.png" if kind == "splice" else None}
            more |= {"photo_hash_fine": rng.choice([bytes(32)] * 4 + [ALMOST, OTHER])}
            rows.append(good_item(name, f"{index}.png", kind=kind, photo_hash=photo_hash, **more))
            if kind == "photo" and rng.random() < 0.3:
                rows[-1] |= {"instances": "/x/map.png"}
    config = BuildConfig(
        sources=sources,
        split=SplitConfig(train=0.6, validation=0.2, test=0.2),
        shard_samples=draw(st.sampled_from([1, 4, 7, 256])),
        near_duplicates="together",
        near_duplicate_bits=draw(st.sampled_from([0, 2, 4])),
    )
    return config, rows


def planned(config: BuildConfig, rows: list[Row], seed: int = 0) -> Plan | None:
    """The plan; None where it is refused."""
    try:
        return plan.make(config, seed, table(rows))[0]
    except (DataError, UserError):
        return None


def scene(row: Row) -> tuple[str, str]:
    return row["source"], row["group"] or row["name"]


def together(config: BuildConfig, rows: list[Row]) -> dict[str, int]:
    """By key, the number of the set of items that must not part: scenes, and chains of near-duplicates."""
    sets = [{index} for index in range(len(rows))]
    for i, j in combinations(range(len(rows)), 2):
        linked = scene(rows[i]) == scene(rows[j]) or near(rows[i], rows[j], config.near_duplicate_bits)
        if linked and sets[i] is not sets[j]:
            sets[i] |= sets[j]
            for member in sets[j]:
                sets[member] = sets[i]
    return {f"{row['source']}/{row['name']}": min(sets[index]) for index, row in enumerate(rows)}


@quick
@hypothesis.given(sources_and_items(), st.integers(0, 2**32))
def test_every_good_item_comes_as_often_as_samples_are_made_of_it(
    drawn: tuple[BuildConfig, list[Row]], seed: int
) -> None:
    config, rows = drawn
    made = planned(config, rows, seed)
    hypothesis.assume(made is not None)
    assert made is not None
    each = {source.name: source.samples_per_photo for source in config.sources}
    expected = [
        f"{row['source']}/{row['name']}" + (f"#{number:04d}" if row["kind"] == "photo" else "")
        for row in rows
        for number in range(each[row["source"]] if row["kind"] == "photo" else 1)
    ]
    found = samples(made)
    assert sorted(sample.key for sample in found) == sorted(expected)
    by_key = {f"{row['source']}/{row['name']}": row for row in rows}
    for sample in found:
        row = by_key[sample.key.split("#")[0]]
        assert sample.image == row
        forged_here = ("authentic", "splice", "copy_move", "copy_move_outline", "remove")
        assert sample.kind in (forged_here if row["kind"] == "photo" else (row["kind"],))


@quick
@hypothesis.given(sources_and_items(), st.integers(0, 2**32))
def test_what_belongs_together_never_parts(drawn: tuple[BuildConfig, list[Row]], seed: int) -> None:
    config, rows = drawn
    made = planned(config, rows, seed)
    hypothesis.assume(made is not None)
    assert made is not None
    found = splits(made)
    by_set = defaultdict(set)
    for key, number in together(config, rows).items():
        by_set[number].add(found[key])
    assert all(len(one) == 1 for one in by_set.values())
    for one, other in combinations(rows, 2):
        if near(one, other, config.near_duplicate_bits):
            assert found[f"{one['source']}/{one['name']}"] == found[f"{other['source']}/{other['name']}"]
    for source in config.sources:
        if isinstance(source.split, str):
            assert {found[key] for key in found if key.startswith(f"{source.name}/")} == {source.split}


@quick
@hypothesis.given(sources_and_items(), st.integers(0, 2**32))
def test_a_build_stops_exactly_where_near_duplicates_would_part(
    drawn: tuple[BuildConfig, list[Row]], seed: int
) -> None:
    """With a threshold of no bits and hashes all apart, the same items show how they would be divided."""
    config, rows = drawn
    config = config.model_copy(update={"near_duplicates": "stop"})
    apart = [row | {"photo_hash": far(index)} for index, row in enumerate(rows)]
    divided = planned(config, apart, seed)
    hypothesis.assume(divided is not None)
    assert divided is not None
    where = splits(divided)
    crossing = {
        key
        for one, other in combinations(rows, 2)
        if near(one, other, config.near_duplicate_bits)
        and where[f"{one['source']}/{one['name']}"] != where[f"{other['source']}/{other['name']}"]
        for key in (f"{one['source']}/{one['name']}", f"{other['source']}/{other['name']}")
    }
    if not crossing:
        made, alike = plan.make(config, seed, table(rows))
        assert splits(made) == where
        assert alike.crossing == 0
        return
    with pytest.raises(DataError, match=rf"^{len(crossing)} images.*build\.near_duplicates=together") as error:
        plan.make(config, seed, table(rows))
    assert sum(f"{key} ({where[key]})" in str(error.value) for key in crossing) >= 2


@quick
@hypothesis.given(sources_and_items(), st.integers(0, 2**32))
def test_donors_are_other_photographs_of_the_same_split_and_source(
    drawn: tuple[BuildConfig, list[Row]], seed: int
) -> None:
    config, rows = drawn
    made = planned(config, rows, seed)
    hypothesis.assume(made is not None)
    assert made is not None
    where, sets = splits(made), together(config, rows)
    for sample in samples(made):
        if sample.donor is None:
            assert sample.kind != "splice" or sample.image["kind"] != "photo"
            continue
        own, donor = (f"{sample.source}/{image['name']}" for image in (sample.image, sample.donor))
        assert sample.kind == "splice"
        assert sample.donor["source"] == sample.source
        assert where[donor] == where[own] == sample.split
        assert sets[donor] != sets[own]


def test_only_photographs_are_donors() -> None:
    """A listing may hold photographs to forge from beside given forgeries: what is pasted must be authentic."""
    rows = [good_item("a", f"p{index}", photo_hash=far(index)) for index in range(10)]
    rows += [good_item("a", f"f{index}", kind="forged", mask="/m", photo_hash=far(10 + index)) for index in range(30)]
    source = source_config("a", split="train", samples_per_photo=20, forge=ForgeConfig(splice=1, **NOTHING_ELSE))
    made, _ = plan.make(BuildConfig(sources=[source]), 0, table(rows))
    assert {sample.donor["kind"] for sample in samples(made) if sample.donor} == {"photo"}


NOTHING_ELSE = {"copy_move": 0, "copy_move_outline": 0, "remove": 0}


def test_donors_have_objects_where_there_are_any() -> None:
    rows = [good_item("a", f"p{index}", photo_hash=far(index)) for index in range(40)]
    for index in range(0, 40, 5):
        rows[index] |= {"instances": "/x/map.png"} if index % 2 else {"polygons": "[[[0,0,9,0,9,9]]]"}
    source = source_config("a", split="train", samples_per_photo=20, forge=ForgeConfig(splice=1, **NOTHING_ELSE))
    made, _ = plan.make(BuildConfig(sources=[source]), 0, table(rows))
    donors = Counter(sample.donor["name"] for sample in samples(made) if sample.donor)
    assert set(donors) == {f"p{index}" for index in range(0, 40, 5)}
    assert donors.total() == 800
    assert min(donors.values()) > 50  # of 100 each


def test_a_splice_without_a_donor_is_a_copy_move() -> None:
    rows = [good_item("a", f"p{index}", group="scene", photo_hash=far(index)) for index in range(3)]
    source = source_config("a", split="train", samples_per_photo=4, forge=ForgeConfig(splice=1, **NOTHING_ELSE))
    made, _ = plan.make(BuildConfig(sources=[source]), 0, table(rows))
    assert [(sample.kind, sample.donor) for sample in samples(made)] == [("copy_move", None)] * 12


@quick
@hypothesis.given(sources_and_items(), st.integers(0, 2**32))
def test_shards_are_runs_of_one_split_and_source(drawn: tuple[BuildConfig, list[Row]], seed: int) -> None:
    config, rows = drawn
    made = planned(config, rows, seed)
    hypothesis.assume(made is not None)
    assert made is not None
    assert made.shards[0].start == 0
    assert made.shards[-1].stop == len(made.item)
    assert all(one.stop == next_one.start for one, next_one in zip(made.shards, made.shards[1:], strict=False))
    assert all(1 <= shard.stop - shard.start <= config.shard_samples for shard in made.shards)
    names = [shard.name for shard in made.shards]
    assert len(set(names)) == len(names)
    by_split: dict[str, list[str]] = defaultdict(list)
    for shard in made.shards:
        by_split[shard.split].append(shard.name)
        found = made.samples(shard)
        assert len(found) == shard.stop - shard.start
        assert {(sample.split, sample.source) for sample in found} == {(shard.split, shard.source)}
    for split, own in by_split.items():
        assert own == [f"{split}-{index:05d}" for index in range(len(own))]
    whole = Counter((shard.split, shard.source) for shard in made.shards)
    size = Counter((sample.split, sample.source) for sample in samples(made))
    assert whole == {place: -(-count // config.shard_samples) for place, count in size.items()}


@quick
@hypothesis.given(sources_and_items(), st.integers(0, 2**32))
def test_a_plan_is_a_function_of_its_input(drawn: tuple[BuildConfig, list[Row]], seed: int) -> None:
    config, rows = drawn
    once, again = (planned(config, rows, seed) for _ in range(2))
    assert (once is None) == (again is None)
    if once is not None and again is not None:
        assert samples(once) == samples(again)
        assert once.shards == again.shards


def photographs(count: int, source: str = "a", groups: int | None = None) -> list[Row]:
    """Items whose hashes are far from each other: no near-duplicates by chance, checked here."""
    rows = [good_item(source, f"{index}") for index in range(count)]
    if groups:
        rows = [row | {"group": f"scene {index % groups}"} for index, row in enumerate(rows)]
    return rows


def test_another_seed_is_another_order_and_another_division() -> None:
    config = BuildConfig(sources=[source_config("a", samples_per_photo=2)])
    one, other = (plan.make(config, seed, table(photographs(50)))[0] for seed in (0, 1))
    assert splits(one) != splits(other)
    keys = [[sample.key for sample in samples(made) if sample.split == "train"] for made in (one, other)]
    assert keys[0] != sorted(keys[0])
    both = set(keys[0]) & set(keys[1])
    assert [key for key in keys[0] if key in both] != [key for key in keys[1] if key in both]


@pytest.mark.parametrize("count", [3, 4, 7, 10, 33, 100, 250])
@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.34, 0.33, 0.33), (0.0, 0.5, 0.5)])
def test_shares_hold_for_the_scenes_of_each_source(count: int, shares: tuple[float, float, float]) -> None:
    """Scenes, not items: a scene is two items here. A share above zero is at least one scene."""
    split = SplitConfig(**dict(zip(SPLITS, shares, strict=True)))
    rows = photographs(2 * count, "a", count) + photographs(2 * count, "b", count)
    made, _ = plan.make(
        BuildConfig(sources=[source_config("a"), source_config("b", split=split)], split=split), 0, table(rows)
    )
    found = splits(made)
    for source in ("a", "b"):
        scenes = {(row["group"], found[f"{source}/{row['name']}"]) for row in rows if row["source"] == source}
        counts = Counter(split for _, split in scenes)
        assert counts.total() == count
        for name, share in zip(SPLITS, shares, strict=True):
            assert counts[name] >= (share > 0)
            assert (share > 0) or counts[name] == 0
            assert abs(counts[name] - share * count) <= 1.01 or counts[name] == 1 or share == max(shares)


def test_a_source_of_its_own_shares() -> None:
    own = source_config("b", split=SplitConfig(train=0.1, validation=0.1, test=0.8))
    rows = photographs(50, "a") + photographs(50, "b")
    made, _ = plan.make(BuildConfig(sources=[source_config("a"), own]), 0, table(rows))
    counts = Counter((key[0], split) for key, split in splits(made).items())
    assert [counts["a", name] for name in SPLITS] == [40, 5, 5]
    assert [counts["b", name] for name in SPLITS] == [5, 5, 40]


def test_an_items_own_split_holds_and_takes_its_scene_along() -> None:
    rows = photographs(40, groups=20)
    rows[0] |= {"split": "test"}
    rows[1] |= {"split": "validation"}
    made, _ = plan.make(BuildConfig(sources=[source_config("a")]), 0, table(rows))
    found = splits(made)
    assert [found[f"a/{index}"] for index in (0, 20)] == ["test", "test"]
    assert [found[f"a/{index}"] for index in (1, 21)] == ["validation", "validation"]


def test_a_sources_split_is_stronger_than_its_items() -> None:
    rows = [row | {"split": "train"} for row in photographs(5)]
    made, _ = plan.make(BuildConfig(sources=[source_config("a", split="test")]), 0, table(rows))
    assert set(splits(made).values()) == {"test"}


def test_splits_that_contradict_each_other_in_a_scene_are_refused() -> None:
    rows = [row | {"split": "train"} for row in photographs(10, groups=5)]
    rows[7] |= {"split": "test"}
    with pytest.raises(UserError, match=r"a/[27] and a/[27] belong together.*given to.*leave one out"):
        plan.make(BuildConfig(sources=[source_config("a")]), 0, table(rows))


def test_near_duplicates_in_sources_of_different_splits_are_refused_even_together() -> None:
    rows = photographs(5, "a") + photographs(5, "b")
    rows[8] |= {"photo_hash": rows[2]["photo_hash"] ^ 1}
    sources = [source_config("a", split="train"), source_config("b", split="test")]
    with pytest.raises(UserError, match=r"(a/2 and b/3|b/3 and a/2) belong together.*one split"):
        plan.make(BuildConfig(sources=sources, near_duplicates="together"), 0, table(rows))
    with pytest.raises(DataError, match=r"2 images.*a/2 \(train\) and b/3 \(test\), 1 bits apart.*one split"):
        plan.make(BuildConfig(sources=sources), 0, table(rows))


@pytest.mark.parametrize(("count", "shares"), [(2, (0.8, 0.1, 0.1)), (1, (0.5, 0.5, 0.0))])
def test_too_few_scenes_to_divide_are_refused_by_source_and_number(
    count: int, shares: tuple[float, float, float]
) -> None:
    split = SplitConfig(**dict(zip(SPLITS, shares, strict=True)))
    rows = photographs(20, "a") + photographs(count, "b")
    needed = sum(share > 0 for share in shares)
    with pytest.raises(UserError, match=rf"source b.*{count} photographs.*at least {needed}"):
        plan.make(BuildConfig(sources=[source_config("a"), source_config("b")], split=split), 0, table(rows))


@pytest.mark.parametrize(
    "shares",
    [(0.2, 0.2, 0.2, 0.15), (0.25, 0.25, 0.25, 0.25), (0.0, 0.0, 0.0, 0.0), (0.0, 0.1, 0.0, 0.9), (1.0, 0, 0, 0)],
)
def test_the_shares_of_kinds_hold(shares: tuple[float, float, float, float]) -> None:
    """Over 2,000 samples and over those of each photograph set apart (a split of 400), within 2% and 5%."""
    names = ("splice", "copy_move", "copy_move_outline", "remove")
    forge = ForgeConfig(**dict(zip(names, shares, strict=True)))
    source = source_config("a", forge=forge, samples_per_photo=20)
    split = SplitConfig(train=0.6, validation=0.2, test=0.2)
    made, _ = plan.make(BuildConfig(sources=[source], split=split), 3, table(photographs(100)))
    wanted = dict(zip(names, shares, strict=True)) | {"authentic": 1 - sum(shares)}
    for within, tolerance in ((SPLITS, 0.02), (("test",), 0.05)):
        found = Counter(sample.kind for sample in samples(made) if sample.split in within)
        for name, share in wanted.items():
            assert abs(found[name] / found.total() - share) <= tolerance, name
            assert share > 1e-6 or found[name] == 0
