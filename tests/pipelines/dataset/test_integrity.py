"""What a dataset lost is found in one listing, what it holds is compared with the manifest, and a build mends it."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_rows import PNG

from mpc_model.errors import DamagedError, DataError
from pipelines import build as building
from pipelines import cli
from pipelines.build import build
from pipelines.config.root import Config
from pipelines.dataset import integrity
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.dataset.schema import SCHEMA
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from pipelines.inspect import inspect
from pipelines.pretrain import pretrain
from pipelines.runtime import storage
from pipelines.tune import tune

PARQUET = "shards/train-00001.parquet"


@pytest.fixture
def copy(built: Config, tmp_path: Path) -> Path:
    return Path(shutil.copytree(str(built.build.output), tmp_path / "dataset"))


def of(config: Config, dataset: Path, output: Path) -> Config:
    """The config with another dataset, for every command, and outputs of its own."""
    changed = {
        "build": {"output": str(dataset)},
        "train": {"dataset": str(dataset)},
        "evaluate": {"dataset": str(dataset), "output": str(output / "evaluate")},
        "pretrain": {"output": str(output / "pretrain")},
        "finetune": {"output": str(output / "finetune")},
        "tune": {"output": str(output / "tune"), "space": {"pretrain.temperature": [0.1, 0.2]}},
    }
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in changed.items()}
    )


def files(folder: Path) -> dict[str, bytes]:
    """All files of a dataset but done-markers, which hold a time."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not (file.parent.name == "shards" and file.suffix == ".json")
    }


def unlinked(*names: str) -> Any:
    return lambda folder: [(folder / name).unlink() for name in names]


def shortened(folder: Path) -> None:
    (folder / PARQUET).write_bytes((folder / PARQUET).read_bytes()[:-1])


LOSSES = {
    "a shard": unlinked(PARQUET),
    "a shard and its marker": unlinked(PARQUET, "shards/train-00001.json"),
    "a short shard": shortened,
    "all shards": lambda folder: shutil.rmtree(folder / "shards"),
    "rejects": unlinked("rejects.parquet"),
    "rejects and markers": unlinked("rejects.parquet", "shards/train-00000.json", "shards/test-00000.json"),
    "report": unlinked("report.html"),
    "everything but the manifest": lambda folder: [
        shutil.rmtree(folder / "shards"),
        (folder / "rejects.parquet").unlink(),
        (folder / "report.html").unlink(),
    ],
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_build_makes_again_what_was_lost_byte_for_byte(built: Config, copy: Path, loss: Any, capsys: Any) -> None:
    before, changed = files(copy), (copy / "manifest.json").stat().st_mtime_ns
    loss(copy)
    lost = integrity.lost(str(copy), Manifest.read(str(copy)))
    assert lost
    with pytest.raises(DamagedError, match=rf"lacks files .*{next(iter(lost))}.*run the same `mpc build` again"):
        inspect(str(copy))
    config = of(built, copy, copy.parent)
    capsys.readouterr()
    manifest = build(config)
    said = capsys.readouterr().err
    assert f"{len(lost)} lost file" in said
    assert "reusing" not in said
    assert manifest == Manifest.read(str(built.build.output))
    assert files(copy) == before
    assert (copy / "manifest.json").stat().st_mtime_ns == changed
    inspect(str(copy), verify=True)
    build(config)
    assert "reusing the finished dataset" in capsys.readouterr().err


def test_a_shard_of_other_bytes_is_found_and_made_again_once_it_is_deleted(built: Config, copy: Path) -> None:
    before = files(copy)
    (copy / PARQUET).write_bytes(before[PARQUET][:-9] + bytes(9))
    inspect(str(copy))
    with pytest.raises(DamagedError, match=rf"{PARQUET} \(other bytes\); delete them, and run the same `mpc build`"):
        inspect(str(copy), verify=True)
    (copy / PARQUET).unlink()
    build(of(built, copy, copy.parent))
    assert files(copy) == before


def test_what_would_come_out_otherwise_is_not_stored(
    built: Config, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sources still have the sizes that they had, but other pixels."""
    stored = json.loads((copy / "manifest.json").read_text())
    config = of(built, copy, copy.parent)
    monkeypatch.setattr(building.integrity, "lost", lambda uri, manifest: {PARQUET: "lost"})
    with_shard(copy, "train-00001", sha256="0" * 64)
    assert json.loads((copy / "manifest.json").read_text()) != stored
    (copy / PARQUET).unlink()
    before = files(copy)
    with pytest.raises(DamagedError, match=r"train-00001 comes out with other bytes.*nothing is\s+replaced"):
        build(config)
    assert files(copy) == before


@pytest.mark.parametrize("command", [pretrain, finetune, evaluate, tune])
def test_training_says_what_is_missing_before_it_begins(trained: Config, copy: Path, command: Any) -> None:
    for name in ("train-00000", "train-00001", "validation-00000", "test-00000"):
        (copy / "shards" / f"{name}.parquet").unlink()
    config = of(trained, copy, copy.parent / "out")
    first = "test-00000" if command is evaluate else "train-00000"
    with pytest.raises(DamagedError, match=rf"shards/{first}\.parquet \(lost\).*; run the same `mpc build` again"):
        command(config)
    assert not [file for file in (copy.parent / "out").rglob("*") if file.is_file()]


def test_shards_of_a_split_that_is_not_read_do_not_matter(built: Config, copy: Path) -> None:
    (copy / "shards" / "test-00000.parquet").unlink()
    manifest = Manifest.read(str(copy))
    integrity.check(str(copy), manifest, ("train", "validation"))
    with pytest.raises(DamagedError, match="test-00000"):
        integrity.check(str(copy), manifest, ["test"])


def test_three_files_are_named_and_all_are_counted(copy: Path, capsys: Any) -> None:
    shards = sorted((copy / "shards").glob("*.parquet"))
    for file in shards:
        file.unlink()
    assert cli.main(["inspect", str(copy)]) == 1
    said = capsys.readouterr().err
    assert said.count("(lost)") == 3
    assert f"and {len(shards) - 3} more" in said
    assert said.count("\n") == 1


def test_one_listing_is_enough(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, calls = Manifest.read(str(copy)), list[str]()
    for name in ("list_stamps", "stamp", "exists", "read_bytes"):
        real = getattr(storage, name)
        monkeypatch.setattr(storage, name, lambda *args, name=name, real=real: [calls.append(name), real(*args)][1])
    integrity.check(str(copy), manifest)
    assert calls == ["list_stamps"]


def test_a_dataset_on_s3_is_looked_at_in_the_same_way(s3: str, copy: Path) -> None:
    uri = f"{s3}/lost-part"
    for name, data in files(copy).items():
        storage.write_bytes(f"{uri}/{name}", data)
    manifest = Manifest.read(uri)
    assert integrity.lost(uri, manifest) == {}
    storage.delete(f"{uri}/{PARQUET}")
    storage.write_bytes(f"{uri}/shards/test-00000.parquet", b"PAR1")
    assert list(integrity.lost(f"{uri}/", manifest)) == [PARQUET, "shards/test-00000.parquet"]
    with pytest.raises(DamagedError, match=rf"{PARQUET} \(lost\), shards/test-00000.parquet \(4 bytes instead of"):
        integrity.check(uri, manifest)


def with_shard(folder: Path, name: str, **changes: Any) -> None:
    """Write the manifest anew, with another entry of one shard."""
    manifest = Manifest.read(str(folder))
    shards = [shard.model_copy(update=changes) if shard.name == name else shard for shard in manifest.shards]
    fields = {key: getattr(manifest, key) for key in Manifest.model_fields}
    Manifest.model_validate(fields | {"shards": shards}).write(str(folder))


def rewritten(folder: Path, change: Any, name: str = PARQUET) -> None:
    """Replace a shard by one with changed rows, and the manifest by one that has its size and its SHA-256."""
    file = folder / name
    table = change(pq.read_table(file, partitioning=None))
    with pq.ParquetWriter(file, table.schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, len(table), 4):
            writer.write_table(table.slice(start, 4))
    data = file.read_bytes()
    with_shard(folder, file.stem, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def column(name: str, change: Any) -> Any:
    """A change of the values of one column."""

    def changed(table: pa.Table) -> pa.Table:
        field = table.schema.field(name)
        values = pa.array(change(table[name].to_pylist()), field.type)
        return table.set_column(table.schema.get_field_index(name), field, values)

    return changed


CHANGES = {
    "a row less": (lambda table: table.slice(1), "3 rows, the manifest says 4"),
    "a row more": (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "5 rows, the manifest says 4"),
    "no column": (lambda table: table.drop_columns("kind"), "the column kind is missing"),
    "another type": (
        lambda table: table.set_column(5, "height", table["height"].cast(pa.int64())),
        "the column height is missing, or of another type",
    ),
    "a null": (column("id", lambda values: [None, *values[1:]]), "a null in column id"),
    "no views": (
        column("views", lambda values: [[], *values[1:]]),
        r"with \[0, 2\] views, the manifest says 2",
    ),
    "null views": (column("views", lambda values: [None, *values[1:]]), "a null in column views"),
    "a null view": (
        column("views", lambda values: [[{**values[0][0], "image": None}, values[0][1]], *values[1:]]),
        "a null in column views",
    ),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_rows_that_the_manifest_does_not_say_are_one_line(copy: Path, change: Any, words: str) -> None:
    rewritten(copy, change)
    manifest = Manifest.read(str(copy))
    shards = ShardReader(str(copy), manifest, "train")
    first = manifest.shards[0].rows // 4 + 1  # groups of train-00000
    with pytest.raises(DamagedError, match=rf"shard train-00001 of .*{words}"):
        shards.read(first)
    with pytest.raises(DamagedError, match=rf"{PARQUET} \(.*{words}"):
        inspect(str(copy), verify=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (column("split", lambda values: ["test", *values[1:]]), "a row of another split than train"),
        (column("kind", lambda values: ["remove_" for _ in values]), r"statistics\.samples\.train\.photos\.\w+ is"),
        (column("forged_pixels", lambda values: [0 for _ in values]), r"splits\.train\.forged is \d+, the rows have"),
        (column("height", lambda values: [value + 1 for value in values]), r"train\.pixels\.all is"),
    ],
)
def test_totals_of_the_rows_are_compared_with_the_manifest(copy: Path, change: Any, words: str, capsys: Any) -> None:
    rewritten(copy, change)
    with pytest.raises(DamagedError, match=words):
        inspect(str(copy), verify=True)
    assert "verified" not in capsys.readouterr().out


@pytest.mark.parametrize("place", ["the footer", "a page", "the middle"])
def test_a_shard_that_is_damaged_inside_is_named(copy: Path, place: str) -> None:
    """Every byte of a part is turned; the size stays."""
    file = copy / PARQUET
    data = bytearray(file.read_bytes())
    first = {"the footer": len(data) - 400, "a page": 4, "the middle": len(data) // 2}[place]
    data[first : first + 300] = bytes(255 - value for value in data[first : first + 300])
    file.write_bytes(data)
    manifest = Manifest.read(str(copy))
    shards = ShardReader(str(copy), manifest, "train")
    group = manifest.shards[0].rows // 4 + 1
    if place != "the middle":
        with pytest.raises(DamagedError, match=r"shard train-00001 of .* is damaged or lost"):
            shards.read(group, SCHEMA.names)
    with pytest.raises(DamagedError, match=rf"{PARQUET} \(other bytes\)"):
        inspect(str(copy), verify=True)


@pytest.mark.parametrize("image", [b"", b"no image", PNG], ids=["empty", "no image", "another size than the mask"])
def test_pixels_that_do_not_decode_are_named_in_training(trained: Config, copy: Path, image: bytes) -> None:
    def broken(rows: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        return [[{**view, "image": image} for view in views] for views in rows]

    for shard in (copy / "shards").glob("*.parquet"):
        rewritten(copy, column("views", broken), f"shards/{shard.name}")
    with pytest.raises(DataError, match=rf"sample \w+ of {copy}"):
        pretrain(of(trained, copy, copy.parent / "out"))
