"""A location is the very place that was typed, wherever it is typed, on a disk and on S3; or it is refused in one line.

Every kind of text is given in an override, a recipe, a listing and to the commands that take a location as an argument,
and files are really written and read there.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from mpc_model.errors import MPCError, UserError
from pipelines import reuse
from pipelines.commands import COMMANDS
from pipelines.config import recipe
from pipelines.config.build import SourceConfig
from pipelines.config.keys import list_keys
from pipelines.config.root import Config
from pipelines.ingest.layouts import LAYOUTS
from pipelines.inspect import inspect
from pipelines.runtime import storage, uris
from pipelines.tracking import results

NAMES = [
    "photos #2",
    "#2",
    "a?b=c&d",
    "My%20Drive",
    "100%",
    "a+b",
    "in/a: b",
    "  spaced  ",
    "123",
    "true",
    "@x",
    "*[x]{y}",
    'it\'s "q"',
    "back\\slash",
    "caf\u00e9",
    "cafe\u0301",
    "日本 📷",
    "~x",
    "-x",
    "a=b",
    "a;b,c|d>e",
]
NO_PLACES = {
    "gx://bucket/x": "scheme is not supported",
    "s3:/bucket/x": "scheme is not supported",
    "S3://bucket/x": "scheme is not supported",
    "s3:///x": "names no bucket",
    "s3://bu?cket/x": "no bucket is named",
    "s3://bucket/a//b": "an empty part",
    "s3://bucket/a/../b": "an empty part, . or ..",
    "file://host/x": "another machine",
    "file:///a?b": "%3F",
    "file:///a%": "%25",
    "a\nb": "control characters",
    "a\0b": "control characters",
    "": "",
}


def keys_of_locations() -> list[str]:
    """Every key that takes a location alone."""
    return [key.name.replace(".N.", ".0.") for key in list_keys() if key.type.startswith("location")]


def value(config: Config, key: str) -> str:
    found: object = config
    for step in key.split("."):
        found = (
            found[int(step)] if isinstance(found, list) else getattr(found, {"register": "register_"}.get(step, step))
        )
    return str(found)


def in_override(key: str, text: str, folder: Path) -> str:
    return value(recipe.load("demo", [f"{key}={text}"]), key)


def in_quoted_override(key: str, text: str, folder: Path) -> str:
    return value(recipe.load("demo", [f"{key}={json.dumps(text)}"]), key)


def in_recipe(key: str, text: str, folder: Path) -> str:
    *above, last = key.split(".")
    if "0" in above:  # a source has more keys that must be given
        document: object = {"build": {"sources": [{"name": "a", "layout": "photos", "location": "x", last: text}]}}
    else:
        document = {above[0]: {last: text}} if above else {last: text}
    file = folder / "typed.yaml"
    file.write_text(yaml.safe_dump(document))
    return value(recipe.load(str(file)), key)


@pytest.mark.parametrize("typed", [in_override, in_quoted_override, in_recipe])
def test_every_key_that_takes_a_location_takes_it_as_typed_or_refuses_it(
    typed: Callable[[str, str, Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = keys_of_locations()
    assert len(keys) > 18
    for number, text in enumerate(NAMES):
        key = keys[number % len(keys)]
        assert typed(key, text, tmp_path) == f"{tmp_path}/{text}", key
        assert typed(key, f"s3://bucket/{text}/x", tmp_path) == f"s3://bucket/{text}/x", key
    for number, (text, words) in enumerate(NO_PLACES.items()):
        for key in (keys[number], keys[-1 - number]):
            with pytest.raises(UserError) as refused:
                typed(key, text, tmp_path)
            assert words in str(refused.value)
            assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", keys_of_locations())
def test_no_key_cuts_a_location_short(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for typed in (in_override, in_recipe):
        assert typed(key, "in/case #2?%20", tmp_path) == f"{tmp_path}/in/case #2?%20"
        with pytest.raises(UserError, match="control characters"):
            typed(key, "a\nb", tmp_path)


# Spaces around a cell are no part of it, and backslashes are those of Windows: what reads listings says so.
@pytest.mark.parametrize("text", [name for name in NAMES if name == name.strip() and "\\" not in name])
def test_a_listing_names_that_very_file(text: str, tmp_path: Path) -> None:
    names = [f"{text}.png", f"../lists/{text}.png", f"{tmp_path}/{text}.png"]
    rows = ['"' + name.replace('"', '""') + '"' for name in names]
    listing = tmp_path / "lists" / "list.csv"
    listing.parent.mkdir()
    listing.write_text("\n".join(["image", *rows]))
    source = SourceConfig(name="mine", layout="pairs", location=str(listing))
    found = [item.image for item in LAYOUTS["pairs"](source)]
    assert found == [f"{tmp_path}/lists/{text}.png", f"{tmp_path}/lists/{text}.png", f"{tmp_path}/{text}.png"]


def roots(tmp_path: Path, s3: str) -> list[str]:
    return [str(tmp_path), f"{s3}/{tmp_path.name}"]


def test_files_are_written_listed_and_read_there_on_a_disk_and_on_s3(tmp_path: Path, s3: str) -> None:
    for root in roots(tmp_path, s3):
        for text in NAMES:
            folder, data = uris.resolved(f"{root}/{text}"), text.encode()
            place = uris.join(folder, "f?#%20.bin")
            storage.write_bytes(place, data)
            assert storage.read_bytes(place) == data
            assert storage.list_files(folder) == [place]
            filesystem, path = storage.resolve(place)
            assert filesystem.open_input_file(path).read() == data
            assert storage.folder_exists(folder)
        assert len(storage.list_files(root)) == len(NAMES)
    for text in NAMES:
        assert (tmp_path / text / "f?#%20.bin").read_bytes() == text.encode()
        storage.delete(f"{s3}/{tmp_path.name}/{text}")
    with pytest.raises(UserError, match="nothing found"):
        storage.list_files(f"{s3}/{tmp_path.name}")


def test_keys_that_differ_by_slashes_alone_are_not_taken_for_one(s3: str) -> None:
    root = f"{s3}/slashes"
    for key in ("a/b.png", "a//b.png", "a//c.png"):
        storage.write_bytes(f"{root}/{key}", b"x")
    assert list(storage.list_stamps(root)) == [f"{root}/a//c.png", f"{root}/a/b.png"]
    assert [stamp for place, stamp in storage.listing(root) if place.endswith("a//b.png")] == [
        f"there is {root}/a/b.png, too, which differs by slashes alone"
    ]
    storage.delete(root)
    assert not storage.folder_exists(root)


def test_commands_that_take_a_location_as_an_argument_take_it_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("case #2", "a?b%20", f"{s3}/a #?%20", "file:///no%20where"):
        with pytest.raises(MPCError) as refused:
            inspect(text)
        assert f"no pixel dataset at {uris.resolved(text)}:" in str(refused.value)
    with pytest.raises(UserError, match="control characters"):
        inspect("a\0b")


def test_images_and_models_are_looked_for_there(tmp_path: Path, s3: str) -> None:
    picture = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for root in roots(tmp_path, s3):
        for text in ("case", "case #2", "case?2", "case%202"):
            storage.write_bytes(f"{root}/{text}/{text}.png", picture)
        for text in ("case", "case #2", "case?2", "case%202"):
            config = recipe.load("demo", [f"predict.input={root}/{text}", f"workspace={root}/ws"])
            assert list(reuse.images(str(config.predict.input))[0]) == [f"{root}/{text}/{text}.png"]
    assert not os.path.exists(tmp_path / "ws")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["a b #1?x=%20+é", "s3"])
def test_the_whole_pipeline_runs_in_a_folder_of_an_odd_name(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], s3: str, ray_session: None
) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = f"{s3}/whole/a b+%20é;=" if place == "s3" else f"{tmp_path}/{place}"
    pictures = f"{workspace}/in #1?%" if place != "s3" else f"{s3}/whole/in #1?%"
    overrides = [
        *(line for line in settings if not line.startswith("train=")),
        "train={workers: 1, batch_size: 4, validation_images: 6}",
        f"workspace={workspace}",
        f"predict.input={pictures}",
        "tune.space={pretrain.temperature: [0.1, 0.2]}",
        "tune.stages=pretrain",
        "tune.trials=1",
    ]
    for name in ("one #.png", "one #%20.png"):
        picture = np.random.default_rng(len(name)).integers(0, 255, (64, 64, 3), np.uint8)
        storage.write_bytes(uris.join(pictures, name), cv2.imencode(".png", picture)[1].tobytes())
    config = recipe.load(None, overrides)
    for verb in ("build", "pretrain", "finetune", "evaluate", "register", "promote", "predict", "tune"):
        result = COMMANDS[verb].call(config)
        if COMMANDS[verb].metrics:
            results.record(config, COMMANDS[verb], result)
    inspect(f"{workspace}/dataset", verify=True)
    maps = storage.list_files(f"{workspace}/predict/maps")
    assert [name.rpartition("/")[2] for name in maps] == ["one #%20.png.png", "one #.png.png"]
    beside = {path.name for path in tmp_path.iterdir()}
    assert beside == ({"runs"} if place == "s3" else {place})  # an SQLite file is local
    database = tmp_path / ("runs" if place == "s3" else place) / "mlflow.db"
    assert database.exists()
