"""Every sample that is left out has a row, of duplicates the first stays, and too many stop a build."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpc_model.errors import DataError
from pipelines.config.build import BuildConfig, SourceConfig
from pipelines.dataset import rejects
from pipelines.ingest import listing, screening, survey


def listed(*rows: tuple[str, str, str]) -> pa.Table:
    """Items of (source, name, kind)."""
    whole = [
        dict.fromkeys(listing.SCHEMA.names) | {"source": source, "name": name, "image": f"/x/{name}", "kind": kind}
        for source, name, kind in rows
    ]
    return pa.Table.from_pylist(whole, listing.SCHEMA)


def surveyed(*found: str) -> pa.Table:
    """What the survey says, in short: `ok:x` for a good image of content x, else `reason`."""
    rows: list[dict[str, Any]] = []
    for place, one in enumerate(found):
        if one.startswith("ok:"):
            rows.append({"image_sha256": one[3:].encode(), "mask_sha256": None, "photo_hash": place})
            rows[-1]["photo_hash_fine"] = bytes([place] * 32)
        else:
            rows.append({"reason": one, "message": f"image {place} is bad"})
    return pa.Table.from_pylist(rows, survey.SCHEMA)


def config(**more: Any) -> BuildConfig:
    source = {"layout": "photos", "location": "/x"}
    many = SourceConfig(name="many", samples_per_photo=3, **source)
    return BuildConfig(sources=[many, SourceConfig(name="given", **source)], output="/out", **more)


def names(table: pa.Table) -> list[str]:
    return list(table["name"].to_pylist())


def test_a_bad_photograph_is_as_many_rejects_as_samples_were_to_come_of_it() -> None:
    table = listed(("many", "a", "photo"), ("many", "b", "photo"), ("given", "c", "forged"), ("given", "d", "photo"))
    good, rejected = screening.screen(config(), table, surveyed("truncated", "ok:b", "empty_mask", "zero_bytes"))
    assert names(good) == ["b"]
    assert [(reject["sample"], reject["source"], reject["reason"]) for reject in rejected] == [
        ("many/a#0000", "many", "truncated"),
        ("many/a#0001", "many", "truncated"),
        ("many/a#0002", "many", "truncated"),
        ("given/c", "given", "empty_mask"),
        ("given/d#0000", "given", "zero_bytes"),
    ]
    assert rejected[3]["message"] == "image 2 is bad"
    assert {reject["stage"] for reject in rejected} == {"survey"}


def test_good_items_keep_what_the_survey_found() -> None:
    table = listed(("given", "a", "forged"), ("given", "b", "forged"), ("given", "c", "forged"))
    good, rejected = screening.screen(config(), table, surveyed("ok:a", "truncated", "ok:c"))
    assert len(rejected) == 1
    kept = [
        name
        for name in listing.SCHEMA.names
        if not name.startswith(("image_", "mask_", "scribble_")) or name == "mask_rule"
    ]
    assert good.schema.names == [*kept, "image_sha256", "mask_sha256", "photo_hash", "photo_hash_fine"]
    assert good["image_sha256"].to_pylist() == [b"a", b"c"]
    assert good["photo_hash"].to_pylist() == [0, 2]
    assert good["photo_hash_fine"].to_pylist() == [bytes(32), b"\x02" * 32]


def test_of_the_same_bytes_the_first_stays_and_owns_the_others() -> None:
    """In another source, as another kind, and three times: only the first listed is good."""
    table = listed(
        ("many", "a", "photo"),
        ("given", "b", "forged"),
        ("many", "c", "photo"),
        ("given", "d", "splice"),
        ("given", "e", "forged"),
        ("given", "f", "forged"),
    )
    good, rejected = screening.screen(config(), table, surveyed("ok:x", "ok:y", "ok:x", "ok:y", "ok:y", "ok:z"))
    assert names(good) == ["a", "b", "f"]
    assert [(one["sample"], one["stage"], one["reason"]) for one in rejected] == [
        *((f"many/c#000{number}", "plan", "duplicate") for number in range(3)),
        ("given/d", "plan", "duplicate"),
        ("given/e", "plan", "duplicate"),
    ]
    assert "/x/c is the same file as /x/a" in rejected[0]["message"]
    assert all(
        f"/x/{name} is the same file as /x/b" in one["message"] for name, one in zip("de", rejected[3:], strict=1)
    )


def test_the_same_bytes_declared_authentic_and_forged_are_not_kept() -> None:
    """Nobody knows which is true; a photograph to forge from declares nothing."""
    table = listed(
        ("given", "a", "authentic"),
        ("given", "b", "forged"),
        ("given", "c", "authentic"),
        ("many", "d", "photo"),
        ("given", "e", "forged"),
        ("given", "f", "authentic"),
    )
    good, rejected = screening.screen(config(), table, surveyed("ok:x", "ok:x", "ok:x", "ok:y", "ok:y", "ok:z"))
    assert names(good) == ["d", "f"]
    assert [(one["sample"], one["reason"]) for one in rejected] == [
        ("given/a", "contradiction"),
        ("given/b", "contradiction"),
        ("given/c", "contradiction"),
        ("given/e", "duplicate"),
    ]
    assert "/x/b is declared forged" in rejected[1]["message"]


def test_a_bad_image_owns_nothing_and_repeats_nothing() -> None:
    """Images that were not read have no digest: they are not the same as each other, nor as a good one."""
    table = listed(*(("given", name, "forged") for name in "abcd"))
    good, rejected = screening.screen(config(), table, surveyed("zero_bytes", "ok:x", "zero_bytes", "ok:w"))
    assert names(good) == ["b", "d"]
    assert [reject["reason"] for reject in rejected] == ["zero_bytes", "zero_bytes"]


@pytest.mark.parametrize("found", [["ok:a", "ok:b"], ["zero_bytes", "truncated"], ["ok:a", "ok:a"]])
def test_listed_is_good_and_rejected(found: list[str]) -> None:
    table = listed(("many", "a", "photo"), ("given", "b", "forged"))
    good, rejected = screening.screen(config(), table, surveyed(*found))
    left = listing.samples_each(config(), good).sum() if len(good) else 0
    assert left + len(rejected) == listing.listed_samples(config(), table).total() == 4
    assert len({reject["sample"] for reject in rejected}) == len(rejected)


def rejects_for(*reasons: str) -> list[rejects.Reject]:
    return [
        {"sample": f"a/{index}", "source": "a", "stage": "survey", "reason": reason, "message": f"{index} is bad"}
        for index, reason in enumerate(reasons)
    ]


@pytest.mark.parametrize(("bad", "stops"), [(0, False), (5, False), (6, True), (100, True)])
def test_more_bad_samples_than_allowed_stop_a_build(bad: int, stops: bool) -> None:
    rejected = rejects_for(*["truncated"] * bad)
    if not stops:
        screening.check(config(max_reject_fraction=0.05), rejected, 100)
        return
    with pytest.raises(DataError, match=rf"{bad} of 100 samples.*truncated \({bad}\).*/out/rejects\.parquet"):
        screening.check(config(max_reject_fraction=0.05), rejected, 100)


def test_what_stops_a_build_is_said_with_the_commonest_reasons_and_the_remedy() -> None:
    reasons = ["duplicate"] * 2 + ["truncated"] * 5 + ["empty_mask"] * 3 + ["zero_bytes"]
    words = r"truncated \(5\), empty_mask \(3\), duplicate \(2\); the first: 0 is bad.*max_reject_fraction"
    with pytest.raises(DataError, match=words) as error:
        screening.check(config(), rejects_for(*reasons), 50)
    assert "zero_bytes" not in str(error.value)


def test_a_build_of_nothing_stops_whatever_is_allowed() -> None:
    with pytest.raises(DataError, match="3 of 3"):
        screening.check(config(max_reject_fraction=1.0), rejects_for(*["truncated"] * 3), 3)
    screening.check(config(max_reject_fraction=1.0), rejects_for(*["truncated"] * 2), 3)


@pytest.mark.parametrize("count", [0, 3])
def test_rejects_are_stored_as_a_table(tmp_path: Path, count: int) -> None:
    rows = rejects_for(*["truncated"] * count)
    rejects.write(rows, str(tmp_path))
    table = pq.read_table(tmp_path / "rejects.parquet")
    assert table.schema.names == ["sample", "source", "stage", "reason", "message"]
    assert table.to_pylist() == rows == rejects.read(str(tmp_path))


def test_volumes_that_lose_some_of_their_slices_are_named() -> None:
    source = SourceConfig(
        name="hearts", layout="indexed", location="/x", class_names=["background", "ventricle"], group=r"p\d"
    )
    names_of = ("p1/1", "p1/2", "p2/1", "p2/2", "p3/1", "p3/2")
    table = listed(*(("hearts", name, "labelled") for name in names_of))
    groups = pa.array([name[:2] for name in names_of])
    table = table.set_column(table.schema.get_field_index("group"), "group", groups)
    found = surveyed("ok:a", "truncated", "ok:c", "ok:d", "truncated", "empty_mask")
    made = BuildConfig(sources=[source], output="/out")
    good, _ = screening.screen(made, table, found)
    (sentence,) = screening.incomplete_groups(made, table, good)
    assert sentence.startswith("source hearts: 1 groups lack some of their images")
    assert "p1 (1 of 2);" in sentence  # p3 has none left, and p2 all
    assert screening.incomplete_groups(made, table, table) == []
