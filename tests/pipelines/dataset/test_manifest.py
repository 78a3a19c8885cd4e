"""The manifest: typed, the same JSON as ever, and a fingerprint over what the dataset is."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from mpc_model.errors import DataError
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest

PROVENANCE = ("config", "config_digest", "asked", "statistics", "near_duplicates", "rejects", "fingerprint", "seal")


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
    with pytest.raises(DataError, match="has schema 1, this version reads 2; delete the dataset"):
        Manifest.read(str(tmp_path))


def test_a_manifest_does_not_change(built: Config) -> None:
    manifest = Manifest.read(str(built.build.output))
    with pytest.raises(ValueError, match="frozen"):
        manifest.seed = 1
    with pytest.raises(ValueError, match="frozen"):
        manifest.splits["train"].samples = 1
