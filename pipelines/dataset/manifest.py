"""The manifest: the JSON, written last, that makes shards a pixel dataset.

    {"schema_version": 2 or 3, "config": {...}, "config_digest": sha256, "asked": sha256 of config and listing,
     "seed": 0,
     "sources": {name: {"repeat": 1, "listed": n, "samples": n, "rejected": n}},    listed = samples + rejected
     "splits": {name: {"samples": n, "forged": n, "pixels": {"authentic": n, "forged": n}}},
     "shards": [{"name", "split", "source", "rows", "bytes", "sha256"}], "row_group": 16, "views": 4,
     "statistics": {...} (pipelines/dataset/counts.py), "near_duplicates": {...} (pipelines/dataset/duplicates.py),
     "masks": {source: [how its masks were read]}, not there where no source has any,
     "classes": [names of the classes of index masks], "scribbles": true, not there where there are none,
     "rejects": sha256 of rejects.parquet, "fingerprint": sha256, "seal": sha256 of the canonical JSON of all of this}

It holds nothing that differs between two builds of the same inputs: no times, no hosts. A dataset of two classes,
authentic and forged, without scribbles or unlabelled samples, is of schema 2, as those of earlier versions; any other
one is of schema 3, which these do not read.
"""

import json
import operator
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from typing_extensions import TypedDict

from mpc_model.classes import FORGERY, MAX_CLASSES
from mpc_model.errors import DataError, UserError
from pipelines.dataset import schema
from pipelines.dataset.duplicates import NearDuplicates
from pipelines.dataset.schema import SplitName
from pipelines.runtime import documents, storage, uris
from pipelines.runtime.canonical import digest
from pipelines.runtime.documents import Count, Sha256

SCHEMA_VERSION, INDEXED_VERSION = 2, 3
"""Of a dataset of authentic and forged samples alone; of one with index masks, scribbles or unlabelled samples."""
FILE_NAME = "manifest.json"
_PROVENANCE = {"config", "request", "statistics", "near_duplicates", "rejects", "masks"}
_DERIVED = {"config_digest", "fingerprint", "seal"}
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=0, le=2**62)]
ShardName = Annotated[str, Field(pattern="^(train|validation|test)-[0-9]{5,9}$")]
"""It becomes the name of a file, which must lie in the dataset."""
SourceName = Annotated[str, Field(min_length=1, max_length=200)]
ClassName = Annotated[str, Field(min_length=1, max_length=200)]
Repeat = Annotated[int, Field(ge=1, le=1_000_000)]


class Document(BaseModel):
    """A JSON document of a dataset: its keys are fixed, and it does not change once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceCounts(Document):
    """Samples of one source; listed = samples + rejected. `repeat` is how often each is drawn in an epoch."""

    repeat: Repeat
    listed: Count
    samples: Count
    rejected: Count

    @model_validator(mode="after")
    def _adds_up(self) -> "SourceCounts":
        if self.listed != self.samples + self.rejected:
            raise ValueError(f"listed is {self.listed}, but samples and rejected are {self.samples + self.rejected}")
        return self


class PixelCounts(Document):
    """Pixels of canonical views, by class; ignored ones are in neither."""

    authentic: Pixels
    forged: Pixels


class LabelCounts(Document):
    """What samples hold: how many of them are forged, or have no labels at all, and their pixels by class.

    `pixels` are those of authentic and forged samples, `class_pixels` those of index masks, by class. What does not
    exist is not written, so that the counts of a dataset of two classes are those of earlier versions.
    """

    forged: Count
    pixels: PixelCounts
    unlabelled: Count = Field(default=0, exclude_if=operator.not_)
    class_pixels: list[Pixels] = Field(default=[], exclude_if=operator.not_)

    @property
    def by_class(self) -> list[int]:
        """Pixels of canonical views by class, ignored ones left out: authentic and forged where no others are named."""
        return self.class_pixels or [self.pixels.authentic, self.pixels.forged]


class SplitCounts(LabelCounts):
    """Samples of one split, and what they hold."""

    samples: Count

    @model_validator(mode="after")
    def _is_possible(self) -> "SplitCounts":
        check_counts(self.samples, self)
        return self


def check_counts(samples: int, counts: LabelCounts) -> None:
    """ValueError for counts that no samples can have: a forged sample has forged pixels, any other has none."""
    forged, pixels = counts.forged, counts.pixels
    if forged > samples:
        raise ValueError(f"forged is {forged}, but samples is {samples}")
    if pixels.forged < forged or (pixels.forged and not forged):
        raise ValueError(f"{forged} forged samples cannot have {pixels.forged} forged pixels")
    if forged + counts.unlabelled > samples:
        raise ValueError(f"forged and unlabelled are {forged + counts.unlabelled}, but samples is {samples}")
    if counts.class_pixels and (forged or pixels.authentic):
        raise ValueError("samples with index masks cannot be authentic or forged")


class ShardEntry(Document):
    """One Parquet file: `<uri>/shards/<name>.parquet`, all of one split and one source."""

    name: ShardName
    split: SplitName
    source: SourceName
    rows: Count
    bytes: Count
    sha256: Sha256

    @model_validator(mode="after")
    def _is_of_its_split(self) -> "ShardEntry":
        if not self.name.startswith(f"{self.split}-"):
            raise ValueError(f"a shard of split {self.split} is not named {self.name}")
        return self


class MaskReading(Document):
    """How masks of a source were read, by `rule`: `read` of `masks` of them.

    `evidence` says which levels it follows from, and is empty where the rule was named. `forged` and `ignored` are
    means of their shares of the pixels of a mask.
    """

    rule: Annotated[str, Field(min_length=1, max_length=200)]
    evidence: Annotated[str, Field(max_length=1000)]
    masks: Count
    read: Count
    forged: Share
    ignored: Share

    @model_validator(mode="after")
    def _is_possible(self) -> "MaskReading":
        if self.read > self.masks:
            raise ValueError(f"read is {self.read}, but masks is {self.masks}")
        return self

    def sentence(self) -> str:
        """It in words."""
        ignored = f", {self.ignored:.1%} ignored" if self.ignored else ""
        rule = f"{self.evidence} (mask rule {self.rule}" if self.evidence else f"mask rule {self.rule}, as named ("
        joint = "; " if self.evidence else ""
        return f"{rule}{joint}{self.read} of {self.masks} masks, {self.forged:.1%} of their pixels forged{ignored})"


class StatisticsDocument(TypedDict):
    """`counts.Statistics` as JSON: [*key, count] in ascending order, and `places` as base64 of little-endian int64."""

    counts: list[list[Annotated[str, Field(max_length=1000)] | Pixels]]
    places: Annotated[str, Field(pattern="^[0-9A-Za-z+/]*={0,2}$", max_length=1 << 16)]


class Manifest(Document):
    """What a dataset is, and how it was built.

    `views` counts the stored views of a sample, the canonical one included; `row_group` is the number of rows of a row
    group; `config` is the `build` section without its output; `request` is the digest of the config and of what the
    sources listed; `rejects` is the SHA-256 of rejects.parquet.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_version: int = SCHEMA_VERSION
    config: dict[str, Any]
    request: Sha256 = Field(validation_alias="asked", serialization_alias="asked")
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    row_group: Annotated[int, Field(ge=1, le=256)]
    views: Annotated[int, Field(ge=1, le=65)]
    sources: dict[SourceName, SourceCounts]
    splits: dict[SplitName, SplitCounts]
    shards: list[ShardEntry]
    statistics: StatisticsDocument
    near_duplicates: NearDuplicates
    rejects: Sha256
    masks: dict[SourceName, list[MaskReading]] = {}
    """By source, of those that have masks of authentic and forged pixels."""
    classes: list[ClassName] = Field(default=[], max_length=MAX_CLASSES, exclude_if=operator.not_)
    """Names of the classes of index masks, in the order of their numbers; none: authentic and forged."""
    scribbles: bool = Field(default=False, exclude_if=operator.not_)
    """Whether each view has a scribble beside its mask."""

    @model_validator(mode="after")
    def _is_of_its_schema(self) -> "Manifest":
        expected = version_of(self.classes, self.scribbles, self.splits.values())
        if self.schema_version != expected:
            raise ValueError(f"schema_version is {self.schema_version}, but what it holds is of {expected}")
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: there must be two or more, of different names")
        for name, split in self.splits.items():
            if len(split.class_pixels) != len(self.classes):
                raise ValueError(
                    f"splits.{name}: class_pixels has {len(split.class_pixels)}, classes {len(self.classes)}"
                )
        return self

    @model_validator(mode="after")
    def _adds_up(self) -> "Manifest":
        names = Counter(shard.name for shard in self.shards)
        if repeated := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"shards: {repeated[0]} comes {names[repeated[0]]} times")
        of_sources, of_splits = Counter[str](), Counter[str]()
        for shard in self.shards:
            of_sources[shard.source] += shard.rows
            of_splits[shard.split] += shard.rows
        for group, stated, rows in (
            ("sources", {name: source.samples for name, source in self.sources.items()}, of_sources),
            ("splits", {name: split.samples for name, split in self.splits.items()}, of_splits),
        ):
            for name in sorted(stated.keys() | rows.keys()):
                if stated.get(name) != rows[name]:
                    raise ValueError(f"{group}.{name}: samples is {stated.get(name)}, its shards have {rows[name]}")
        near = self.near_duplicates
        if (
            near.bits > 64
            or min(near.bits, near.groups, near.crossing) < 0
            or 2 * near.groups > near.alike
            or near.crossing > near.alike
        ):
            raise ValueError("near_duplicates: no images can have these counts")
        return self

    @cached_property
    def fingerprint(self) -> str:
        """The identity of the dataset: a SHA-256 over its shards, counts and seed.

        Where the pixels came from does not count: the same pixels have the same fingerprint wherever they were built.
        """
        return digest(self.model_dump(mode="json", by_alias=True, exclude=_PROVENANCE))

    @property
    def indexed(self) -> bool:
        """Whether masks hold class numbers, 0 to K - 1, instead of authentic (0) and forged (1)."""
        return bool(self.classes)

    @property
    def class_names(self) -> list[str]:
        """The classes in the order of their numbers; of a dataset without index masks authentic and forged."""
        return self.classes or list(FORGERY)

    @property
    def columns(self) -> pa.Schema:
        """The columns of its shards."""
        return schema.columns(self.indexed, self.scribbles)

    def require_labels(self, uri: str, splits: Iterable[str], verb: str) -> None:
        """UserError where a split of this dataset, which is at `uri`, has samples without labels: `verb` needs them."""
        for name in splits:
            counts = self.splits.get(name)
            if counts and counts.unlabelled:
                raise UserError(
                    f"split {name!r} of {uri} has {counts.unlabelled} samples without labels (kind unlabelled), and"
                    f" {verb} needs labels; leave their source out of build.sources, or give it another split"
                )

    def named_rules(self) -> dict[str, dict[str, int]]:
        """The number of masks of each source whose rule was named, by rule."""
        named = {
            source: {reading.rule: reading.masks for reading in readings if not reading.evidence}
            for source, readings in self.masks.items()
        }
        return {source: rules for source, rules in named.items() if rules}

    def to_json(self) -> dict[str, Any]:
        """The document as it is stored, its digests included."""
        content = self.model_dump(mode="json", by_alias=True, exclude=None if self.masks else {"masks"})
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
        written (its checksum, or values that no dataset can have), or when it is of a schema this version does not
        know.
        """
        if not cls.exists(uri):
            raise DataError(
                f"no pixel dataset at {uri}: it has no {FILE_NAME}; run `mpc build`, or name a finished one"
            )
        location = uris.join(uri, FILE_NAME)
        data = storage.read_bytes(location)
        remedy = "bring it back from a copy, or delete the dataset and build it anew"
        try:
            stored = documents.parse(data, _STORED)
        except ValueError as error:
            raise DataError(f"{location} is not a dataset manifest: {error}; {remedy}") from None
        version = stored.get("schema_version")
        if "fingerprint" not in stored or not isinstance(version, int):
            raise DataError(f"{location} is not a dataset manifest; {remedy}")
        if version not in (SCHEMA_VERSION, INDEXED_VERSION):
            raise DataError(
                f"dataset {uri} has schema {version}, this version reads {SCHEMA_VERSION} and {INDEXED_VERSION};"
                " delete the dataset and build it anew"
            )
        try:
            content = {key: value for key, value in stored.items() if key not in _DERIVED}
            manifest = documents.parse(json.dumps(content).encode(), _MANIFEST)
        except ValueError as error:
            raise DataError(f"the manifest of {uri} was changed after it was written: {error}; {remedy}") from None
        for key, value in manifest.to_json().items():
            if stored.get(key) != value:
                raise DataError(
                    f"the manifest of {uri} was changed after it was written: {key} does not fit the rest; {remedy}"
                )
        return manifest


def version_of(classes: Iterable[str], scribbles: bool, splits: Iterable[SplitCounts]) -> int:
    """The schema of a dataset that has these."""
    return INDEXED_VERSION if classes or scribbles or any(split.unlabelled for split in splits) else SCHEMA_VERSION


_STORED = TypeAdapter(dict[str, Any])
_MANIFEST = TypeAdapter(Manifest)
