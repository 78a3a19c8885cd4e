"""The manifest: the JSON, written last, that makes shards a pixel dataset.

    {"schema_version": 2, "config": {...}, "config_digest": sha256, "asked": sha256 of config and listing, "seed": 0,
     "sources": {name: {"repeat": 1, "listed": n, "samples": n, "rejected": n}},    listed = samples + rejected
     "splits": {name: {"samples": n, "forged": n, "pixels": {"authentic": n, "forged": n}}},
     "shards": [{"name", "split", "source", "rows", "bytes", "sha256"}], "row_group": 16, "views": 4,
     "statistics": {...} (pipelines/dataset/counts.py), "near_duplicates": {...} (pipelines/dataset/duplicates.py),
     "rejects": sha256 of rejects.parquet, "fingerprint": sha256, "seal": sha256 of the canonical JSON of all of this}

It holds nothing that differs between two builds of the same inputs: no times, no hosts.
"""

import json
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from mpc_model.errors import DataError
from pipelines.dataset.duplicates import NearDuplicates
from pipelines.runtime import storage, uris
from pipelines.runtime.canonical import digest

SCHEMA_VERSION = 2
FILE_NAME = "manifest.json"
_PROVENANCE = {"config", "request", "statistics", "near_duplicates", "rejects"}
_DERIVED = {"config_digest", "fingerprint", "seal"}


class Document(BaseModel):
    """A JSON document of a dataset: its keys are fixed, and it does not change once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceCounts(Document):
    """Samples of one source; listed = samples + rejected. `repeat` is how often each is drawn in an epoch."""

    repeat: int
    listed: int
    samples: int
    rejected: int


class PixelCounts(Document):
    """Pixels of canonical views, by class; ignored ones are in neither."""

    authentic: int
    forged: int


class SplitCounts(Document):
    """Samples and pixels of one split; `forged` is how many of the samples are forged."""

    samples: int
    forged: int
    pixels: PixelCounts


class ShardEntry(Document):
    """One Parquet file: `<uri>/shards/<name>.parquet`, all of one split and one source."""

    name: str
    split: str
    source: str
    rows: int
    bytes: int
    sha256: str


class StatisticsDocument(TypedDict):
    """`counts.Statistics` as JSON: [*key, count] in ascending order, and `places` as base64 of little-endian int64."""

    counts: list[list[str | int]]
    places: str


class Manifest(Document):
    """What a dataset is, and how it was built.

    `views` counts the stored views of a sample, the canonical one included; `row_group` is the number of rows of a row
    group; `config` is the `build` section without its output; `request` is the digest of the config and of what the
    sources listed; `rejects` is the SHA-256 of rejects.parquet.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_version: int = SCHEMA_VERSION
    config: dict[str, Any]
    request: str = Field(validation_alias="asked", serialization_alias="asked")
    seed: int
    row_group: int
    views: int
    sources: dict[str, SourceCounts]
    splits: dict[str, SplitCounts]
    shards: list[ShardEntry]
    statistics: StatisticsDocument
    near_duplicates: NearDuplicates
    rejects: str

    @cached_property
    def fingerprint(self) -> str:
        """The identity of the dataset: a SHA-256 over its shards, counts and seed.

        Where the pixels came from does not count: the same pixels have the same fingerprint wherever they were built.
        """
        return digest(self.model_dump(mode="json", by_alias=True, exclude=_PROVENANCE))

    def to_json(self) -> dict[str, Any]:
        """The document as it is stored, its digests included."""
        content = self.model_dump(mode="json", by_alias=True)
        content |= {"config_digest": digest(self.config), "fingerprint": self.fingerprint}
        return content | {"seal": digest(content)}

    def write(self, uri: str) -> None:
        """Make the dataset visible. Call it after everything else is in place."""
        text = json.dumps(self.to_json(), indent=1, sort_keys=True)
        storage.write_bytes(uris.join(uri, FILE_NAME), text.encode("ascii") + b"\n")

    @staticmethod
    def exists(uri: str) -> bool:
        """Whether a finished dataset is there."""
        return storage.exists(uris.join(uri, FILE_NAME))

    @classmethod
    def read(cls, uri: str) -> "Manifest":
        """The manifest of a dataset.

        Raises DataError when there is none (not a dataset, or an unfinished build), when it was changed after it was
        written, or when it is of a schema this version does not know.
        """
        if not cls.exists(uri):
            raise DataError(
                f"no pixel dataset at {uri}: it has no {FILE_NAME}; run `mpc build`, or name a finished one"
            )
        try:
            stored = json.loads(storage.read_bytes(uris.join(uri, FILE_NAME)))
            version, _ = stored["schema_version"], stored["fingerprint"]
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{uris.join(uri, FILE_NAME)} is not a dataset manifest; delete the dataset and build it anew"
            ) from None
        if version != SCHEMA_VERSION:
            raise DataError(
                f"dataset {uri} has schema {version}, this version reads {SCHEMA_VERSION};"
                " delete the dataset and build it anew"
            )
        try:
            manifest = cls.model_validate({key: value for key, value in stored.items() if key not in _DERIVED})
        except ValidationError:
            manifest = None
        if manifest is None or manifest.to_json() != stored:
            raise DataError(
                f"the manifest of {uri} was changed after it was written; delete the dataset and build it anew"
            )
        return manifest
