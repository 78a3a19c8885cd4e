"""The done-marker of a shard, `<uri>/shards/<name>.json`: written after the shard, read by an interrupted build."""

import json
from typing import Annotated

from pydantic import Field, TypeAdapter, model_validator

from mpc_model.errors import DataError
from pipelines.dataset.counts import Statistics
from pipelines.dataset.manifest import (
    LabelCounts,
    ShardEntry,
    ShardName,
    SourceName,
    StatisticsDocument,
    check_counts,
)
from pipelines.dataset.rejects import Reject
from pipelines.dataset.schema import SplitName
from pipelines.runtime import documents
from pipelines.runtime.documents import Count, Sha256


class ShardMarker(LabelCounts):
    """What is known of a finished shard.

    `plan` is the digest of everything that the shard is made from: a marker with another digest belongs to another
    shard. `rejects` are samples that could not be rendered, `seconds` is how long the shard took to write.
    """

    name: ShardName
    plan: Sha256
    source: SourceName
    split: SplitName
    rows: Count
    bytes: Count
    sha256: Sha256
    rejects: list[Reject]
    statistics: StatisticsDocument
    seconds: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _is_possible(self) -> "ShardMarker":
        check_counts(self.rows, self)
        return self

    def entry(self) -> ShardEntry:
        """The shard as the manifest lists it."""
        return ShardEntry(
            name=self.name,
            split=self.split,
            source=self.source,
            rows=self.rows,
            bytes=self.bytes,
            sha256=self.sha256,
        )


def encode(marker: ShardMarker) -> bytes:
    """The content of a marker's file."""
    return json.dumps(marker.model_dump(mode="json"), indent=1).encode()


_MARKER = TypeAdapter(ShardMarker)


def decode(content: bytes) -> ShardMarker | None:
    """The inverse of `encode`; None for anything else, for example a marker of another version, or a damaged one."""
    try:
        marker = documents.parse(content, _MARKER)
        samples = Statistics.from_json(marker.statistics).count_by("samples").total()
    except (documents.InvalidDocument, DataError):
        return None
    return marker if samples == marker.rows else None
