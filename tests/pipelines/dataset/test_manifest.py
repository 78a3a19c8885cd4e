"""The manifest: typed, the same JSON as ever, and a fingerprint over what the dataset is."""

import base64
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as settings_of_hypothesis

from mpc_model.errors import DataError, UserError
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.inspect import inspect

PROVENANCE = ("config", "config_digest", "asked", "statistics", "near_duplicates", "rejects", "fingerprint", "seal")

VALUES = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers(-(2**80), 2**80)
    | strategies.floats(allow_nan=False, allow_infinity=False)
    | strategies.text(max_size=20),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(max_size=9), inner),
    max_leaves=4,
)
"""What an edit may put into a document."""


@pytest.fixture
def stored(built: Config) -> dict[str, Any]:
    """The JSON of a dataset's manifest."""
    return dict(json.loads(Path(str(built.build.output), "manifest.json").read_text()))


def sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def test_the_digests_are_those_of_the_canonical_json(built: Config, stored: dict[str, Any]) -> None:
    manifest = Manifest.read(str(built.build.output))
    content = {key: value for key, value in stored.items() if key not in PROVENANCE}
    assert manifest.fingerprint == stored["fingerprint"] == sha256(content)
    assert stored["config_digest"] == sha256(stored["config"])
    assert stored.pop("seal") == sha256(stored)


def test_reading_and_writing_gives_the_same_bytes(built: Config, tmp_path: Path) -> None:
    Manifest.read(str(built.build.output)).write(str(tmp_path))
    first = Path(str(built.build.output), "manifest.json").read_bytes()
    assert (tmp_path / "manifest.json").read_bytes() == first
    assert first.endswith(b"}\n")
    assert Manifest.read(str(tmp_path)) == Manifest.read(str(built.build.output))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"config": {"other": 1}}, True),
        ({"request": "0"}, True),
        ({"rejects": "0"}, True),
        ({"seed": 99}, False),
        ({"row_group": 99}, False),
        ({"views": 99}, False),
        ({"shards": []}, False),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_fingerprint_is_of_the_pixels_and_not_of_where_they_came_from(
    built: Config, change: dict[str, Any], same: bool
) -> None:
    manifest = Manifest.read(str(built.build.output))
    changed = Manifest.model_construct(**{key: getattr(manifest, key) for key in Manifest.model_fields} | change)
    assert (changed.fingerprint == manifest.fingerprint) == same


def _more(content: dict[str, Any]) -> None:
    content["more"] = 1


def _another_count(content: dict[str, Any]) -> None:
    content["splits"]["train"]["samples"] += 1


def _text_for_a_number(content: dict[str, Any]) -> None:
    content["seed"] = str(content["seed"])


def _no_number(content: dict[str, Any]) -> None:
    content["shards"][0]["rows"] = None


@pytest.mark.parametrize("change", [_more, _another_count, _text_for_a_number, _no_number])
@pytest.mark.parametrize("resealed", [False, True])
def test_an_edited_manifest_is_refused(stored: dict[str, Any], tmp_path: Path, change: Any, resealed: bool) -> None:
    """Also with a new checksum: then the keys, the types or the fingerprint do not fit."""
    change(stored)
    if resealed:
        del stored["seal"]
        stored["seal"] = sha256(stored)
    (tmp_path / "manifest.json").write_text(json.dumps(stored))
    with pytest.raises(DataError, match="was changed"):
        Manifest.read(str(tmp_path))


def test_another_schema_is_named(stored: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(stored | {"schema_version": 1}))
    with pytest.raises(DataError, match="has schema 1, this version reads 2 and 3; delete the dataset"):
        Manifest.read(str(tmp_path))


def test_a_manifest_does_not_change(built: Config) -> None:
    manifest = Manifest.read(str(built.build.output))
    with pytest.raises(ValueError, match="frozen"):
        manifest.seed = 1
    with pytest.raises(ValueError, match="frozen"):
        manifest.splits["train"].samples = 1


def resealed(stored: dict[str, Any]) -> bytes:
    """A manifest whose digests are those of its content."""
    content = {key: value for key, value in stored.items() if key not in PROVENANCE}
    stored = {key: value for key, value in stored.items() if key not in ("config_digest", "fingerprint", "seal")}
    stored |= {"config_digest": sha256(stored.get("config")), "fingerprint": sha256(content)}
    return json.dumps(stored | {"seal": sha256(stored)}).encode()


def at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one value; `path` is dotted, and `value` may be a function of what stands there."""

    def change(stored: Any) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in parents:
            stored = stored[part]
        stored[last] = value(stored[last]) if callable(value) else value

    return change


def more_rows(stored: dict[str, Any]) -> None:
    stored["shards"][0]["rows"] += 1


def renamed_split(stored: dict[str, Any]) -> None:
    stored["splits"]["../x"] = stored["splits"].pop("test")
    for shard in stored["shards"]:
        shard["split"] = shard["split"].replace("test", "../x")


def first_shard_twice(stored: dict[str, Any]) -> None:
    stored["shards"][1]["name"] = stored["shards"][0]["name"]


def without_a_shard(stored: dict[str, Any]) -> None:
    del stored["shards"][0]


def another_source(stored: dict[str, Any]) -> None:
    stored["shards"][0]["source"] = "other"


ALTERED: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (at("shards.0.rows", -1), "shards.0.rows"),
    (at("shards.0.rows", 10**15), "shards.0.rows"),
    (at("shards.0.rows", 2.0), "shards.0.rows"),
    (at("shards.0.rows", True), "shards.0.rows"),
    (at("shards.0.rows", "6"), "shards.0.rows"),
    (at("shards.0.rows", None), "shards.0.rows"),
    (at("shards.0.bytes", -5), "shards.0.bytes"),
    (at("shards.0.bytes", 2**70), "shards.0.bytes"),
    (at("shards.0.name", "../../x"), "shards.0.name"),
    (at("shards.0.name", "/etc/passwd"), "shards.0.name"),
    (at("shards.0.name", "train-00000/../../x"), "shards.0.name"),
    (at("shards.0.name", "train-0000\u0661"), "shards.0.name"),
    (at("shards.0.name", "train-00000\n"), "shards.0.name"),
    (at("shards.0.name", ""), "shards.0.name"),
    (at("shards.0.name", "test-00099"), "a shard of split train is not named test-00099"),
    (at("shards.0.split", "../x"), "shards.0.split"),
    (at("shards.0.split", "holdout"), "shards.0.split"),
    (at("shards.0.sha256", "0" * 63), "shards.0.sha256"),
    (at("shards.0.sha256", "G" * 64), "shards.0.sha256"),
    (at("shards.0", None), "shards.0"),
    (at("shards", {}), "shards: "),
    (first_shard_twice, "comes 2 times"),
    (without_a_shard, "its shards have"),
    (more_rows, "its shards have"),
    (another_source, "sources.other: samples is None"),
    (at("views", 0), "views"),
    (at("views", 66), "views"),
    (at("views", 10**9), "views"),
    (at("row_group", 0), "row_group"),
    (at("row_group", 257), "row_group"),
    (at("seed", -1), "seed"),
    (at("seed", 2**63), "seed"),
    (at("seed", 0.5), "seed"),
    (at("asked", "x"), "asked"),
    (at("rejects", ""), "rejects"),
    (at("config", []), "config"),
    (renamed_split, "splits"),
    (at("splits.train.samples", lambda count: count + 1), "splits.train: samples is"),
    (at("splits.train.samples", -3), "splits.train.samples"),
    (at("splits.train.forged", 10**6), "splits.train: forged is 1000000, but samples is"),
    (at("splits.train.forged", 0), "splits.train: 0 forged samples cannot have"),
    (at("splits.train.pixels.forged", 0), "splits.train: "),
    (at("splits.train.pixels.forged", -1), "splits.train.pixels.forged"),
    (at("splits.train.pixels", None), "splits.train.pixels"),
    (at("sources.photos.repeat", 0), "sources.photos.repeat"),
    (at("sources.photos.repeat", 10**12), "sources.photos.repeat"),
    (at("sources.photos.listed", 10**6), "sources.photos: listed is 1000000"),
    (at("sources", {}), "sources.photos: samples is None"),
    (at("statistics.places", "!"), "statistics.places"),
    (at("statistics.counts", [[{}]]), "statistics.counts.0.0"),
    (at("statistics.counts.0", [["samples"], -1]), "statistics.counts.0"),
    (at("near_duplicates.alike", -1), "near_duplicates: "),
    (at("near_duplicates.groups", 7), "near_duplicates: "),
    (at("near_duplicates.bits", 65), "near_duplicates: "),
    (at("near_duplicates.examples", [["a"]]), "near_duplicates.examples"),
    (at("schema_version", 2.0), "schema|manifest"),
    (at("schema_version", None), "is not a dataset manifest"),
]


@pytest.mark.parametrize(("change", "words"), ALTERED, ids=range(len(ALTERED)))
def test_values_that_no_dataset_can_have_are_one_line(
    stored: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    """Also where all digests were made again."""
    change(stored)
    (tmp_path / "manifest.json").write_bytes(resealed(stored))
    with pytest.raises(DataError, match=words) as caught:
        Manifest.read(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe{}",
        b'{"schema_version": 2',
        b'{"schema_version": 2, "schema_version": 2, "fingerprint": ""}',
        b'{"schema_version": NaN, "fingerprint": ""}',
        b'{"schema_version": 1e999, "fingerprint": ""}',
        b'{"schema_version": ' + b"[" * 3000 + b"]" * 3000 + b', "fingerprint": ""}',
        b'{"schema_version": ' + b"1" * 6000 + b', "fingerprint": ""}',
    ],
    ids=range(11),
)
def test_what_is_no_manifest_at_all_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(DataError, match=rf"{tmp_path}/manifest\.json is not a dataset manifest.*; bring it back"):
        Manifest.read(str(tmp_path))


def without(name: str) -> Callable[[list[list[Any]]], list[list[Any]]]:
    return lambda counts: [entry for entry in counts if entry[0] != name]


def test_statistics_that_do_not_fit_are_said_by_inspect(stored: dict[str, Any], built: Config, tmp_path: Path) -> None:
    folder = shutil.copytree(str(built.build.output), tmp_path / "dataset")
    places = stored["statistics"]["places"]
    for path, value, words in (
        ("statistics.places", "AAAA", "places: it is not the base64"),
        ("statistics.places", base64.b64encode(b"\xff" * len(base64.b64decode(places))).decode(), "is negative"),
        ("statistics.counts", lambda counts: [*counts, counts[0]], "comes twice"),
        ("statistics.counts", lambda counts: [*counts, ["colour", "red", 1]], "there is no count"),
        ("statistics.counts", lambda counts: [*counts, []], "there is no count"),
        ("statistics.counts", lambda counts: [*counts, ["samples", "../x", "photos", "splice", 1]], "no count"),
        ("statistics.counts", lambda counts: [*counts, ["area", "splice", "99", 1]], "there is no count"),
        ("statistics.counts", lambda counts: [*counts, ["samples", "test", "photos", "odd", 1]], "not those of splits"),
        ("statistics.counts", [], "not those of splits"),
        ("statistics.counts", without("size"), "the samples of size are not those of samples"),
        ("statistics.counts", without("bytes"), r"statistics\.bytes is 0, the rows have \d+"),
    ):
        changed = json.loads(json.dumps(stored))
        at(path, value)(changed)
        Path(folder, "manifest.json").write_bytes(resealed(changed))
        with pytest.raises(DataError, match=words):
            inspect(str(folder), verify=True)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a document are."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(min(3, len(value))):
            yield from _places(value[key], (*path, key))


@settings_of_hypothesis(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(number=strategies.integers(0, 10**6), value=VALUES, deleted=strategies.booleans())
def test_any_edit_of_a_manifest_is_read_or_refused_in_one_line(
    stored: dict[str, Any], tmp_path: Path, number: int, value: Any, deleted: bool
) -> None:
    edited = json.loads(json.dumps(stored))
    places = [path for path in _places(edited) if path]
    *parents, last = places[number % len(places)]
    place = edited
    for part in parents:
        place = place[part]
    if deleted:
        del place[last]
    else:
        place[last] = value
    (tmp_path / "manifest.json").write_bytes(resealed(edited))
    try:
        manifest = Manifest.read(str(tmp_path))
    except DataError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right
    else:
        assert manifest.to_json() == json.loads((tmp_path / "manifest.json").read_bytes())


CLASSES = ["sky", "road", "car"]


def indexed(stored: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The content of a manifest as that of a dataset of three classes, without its digests."""
    content = {key: value for key, value in stored.items() if key not in ("config_digest", "fingerprint", "seal")}
    splits = {
        name: split | {"forged": 0, "pixels": {"authentic": 0, "forged": 0}, "class_pixels": [5, 0, 7]}
        for name, split in content["splits"].items()
    }
    return content | {"schema_version": 3, "classes": CLASSES, "splits": splits} | more


def test_a_manifest_of_two_classes_is_of_schema_2_and_has_no_new_key(stored: dict[str, Any]) -> None:
    assert stored["schema_version"] == 2
    assert not {"classes", "scribbles"} & stored.keys()
    assert all(set(split) == {"samples", "forged", "pixels"} for split in stored["splits"].values())


def test_classes_scribbles_and_samples_without_labels_make_schema_3(stored: dict[str, Any], tmp_path: Path) -> None:
    manifest = Manifest.model_validate(indexed(stored, scribbles=True))
    manifest.write(str(tmp_path))
    again = Manifest.read(str(tmp_path))
    assert again == manifest
    assert (again.class_names, again.splits["train"].by_class, again.indexed) == (CLASSES, [5, 0, 7], True)
    assert {"class_pixels", "recipe"} <= set(again.columns.names)
    others = Manifest.model_validate(indexed(stored, scribbles=True, classes=["sky", "road", "bus"]))
    assert others.fingerprint != again.fingerprint


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"schema_version": 2}, "schema_version is 2, but what it holds is of 3"),
        ({"classes": ["sky", "road"]}, "class_pixels has 3, classes 2"),
        ({"classes": ["sky", "sky", "car"]}, "of different names"),
        ({"classes": []}, "class_pixels has 3, classes 0|schema_version is 3"),
    ],
)
def test_classes_that_do_not_add_up_are_refused(stored: dict[str, Any], more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Manifest.model_validate(indexed(stored, **more))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"unlabelled": 10**6}, "forged and unlabelled are"),
        ({"pixels": {"authentic": 4, "forged": 0}}, "cannot be authentic or forged"),
    ],
)
def test_counts_of_splits_that_do_not_add_up_are_refused(stored: dict[str, Any], more: Any, words: str) -> None:
    content = indexed(stored)
    content["splits"]["train"] |= more
    with pytest.raises(ValueError, match=words):
        Manifest.model_validate(content)


def test_samples_without_labels_are_refused_with_the_remedy(stored: dict[str, Any]) -> None:
    content = indexed(stored)
    content["splits"]["train"]["unlabelled"] = 2
    manifest = Manifest.model_validate(content)
    manifest.require_labels("there", ["validation", "test"], "training")
    with pytest.raises(
        UserError, match=r"split 'train' of there has 2 samples without labels .*; leave their source out"
    ):
        manifest.require_labels("there", ["validation", "train"], "training")
