"""docs/formats.md names every file that the commands write, and every key and column in them."""

import dataclasses
import json
import re
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mpc_model.card import Card, PublishedOrigin, TrainingDataset
from mpc_model.evaluation import metrics
from mpc_model.localizer import ModelSpec
from pipelines.config.root import Config
from pipelines.dataset import rejects, schema
from pipelines.ingest import survey
from pipelines.model_registry import audit_trail, version_metrics
from pipelines.search import ledger

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
NAMED = set(re.findall(r"[`.\"](\w+)[`\"]", TEXT))
FREE = {"config", "identity", "statistics", "sizes", "history", "validation", "recipe", "counts", "near_duplicates"}
"""Keys whose values the page describes in words, or that hold a config."""
BY_NAME = {"sources", "splits", "robustness", "f1_by_kind", "files", "pixels"}
"""Keys whose values are named by the user, or by files, sources, splits and so on."""


@pytest.mark.parametrize(
    "names",
    [
        schema.SCHEMA.names,
        rejects.SCHEMA.names,
        survey.SCHEMA.names,
        list(ledger.TRIAL.dump_python(ledger.Trial(0, {}), by_alias=True)),
        list(typing.get_type_hints(ledger.Point)),
        [field.name for field in dataclasses.fields(audit_trail.Entry)],
        [field.name for field in dataclasses.fields(version_metrics.VersionMetrics)],
        [field.name for field in dataclasses.fields(version_metrics.ClassVersionMetrics)],
        [field.name for field in dataclasses.fields(ModelSpec)],
        list(metrics.summarize([])),
        [
            *typing.get_type_hints(Card),
            *typing.get_type_hints(TrainingDataset),
            *typing.get_type_hints(PublishedOrigin),
        ],
    ],
)
def test_every_column_and_key_of_the_typed_documents_is_named(names: Iterable[str]) -> None:
    assert [name for name in names if name not in NAMED] == []


def test_the_table_of_columns_is_that_of_the_shards() -> None:
    assert [field.name for field in schema.SCHEMA.field("views").type.value_type] == ["image", "mask", "done"]
    stated = dict[str, str]()
    for names, kinds in re.findall(r"^\| ((?:`\w+` ?)+)\| ([^|]+) \|[^|]*\|$", TEXT, re.MULTILINE):
        columns, types = re.findall(r"\w+", names), kinds.split(", ")
        stated |= dict(zip(columns, types if len(types) > 1 else types * len(columns), strict=True))
    found = {field.name: str(field.type) for field in schema.SCHEMA if field.name != "views"}
    words = {"fixed_size_binary[32]": "binary of 32 bytes"}
    assert {name: stated[name] for name in found} == {name: words.get(kind, kind) for name, kind in found.items()}


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _keys(item)
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            if key in BY_NAME and isinstance(item, dict):
                for inner in item.values():
                    yield from _keys(inner)
            elif key not in FREE:
                yield from _keys(item)


def _is_described(path: str) -> bool:
    """Whether the page names a file, given with the numbers in its name left out."""
    described = re.sub(r"<[^>]+>|\d+", "", TEXT)
    return re.sub(r"\d+|(train|validation|test)(?=-)", "", path.rsplit("/", 1)[-1]) in described


def test_every_file_of_a_pipeline_and_every_key_in_it_is_named(trained: Config) -> None:
    folders = [str(trained.build.output), str(trained.pretrain.output), str(trained.finetune.output)]
    files = [file for folder in folders for file in Path(folder).rglob("*") if file.is_file()]
    assert len(files) > 20
    assert [str(file) for file in files if not _is_described(str(file))] == []
    for file in files:
        if file.suffix == ".json":
            unknown = {key for key in _keys(json.loads(file.read_text())) if key not in NAMED}
            assert not unknown, (file, unknown)
        if file.suffix == ".parquet":
            assert [name for name in pq.read_schema(file).names if name not in NAMED] == []
