"""The done-marker of a shard, `<uri>/shards/<name>.json`: written after the shard, read by an interrupted build."""

import json

from pydantic import ValidationError

from pipelines.dataset.manifest import Document, PixelCounts, ShardEntry, StatisticsDocument
from pipelines.dataset.rejects import Reject


class ShardMarker(Document):
    """What is known of a finished shard.

    `plan` is the digest of everything that the shard is made from: a marker with another digest belongs to another
    shard. `rejects` are samples that could not be rendered, `seconds` is how long the shard took to write.
    """

    name: str
    plan: str
    source: str
    split: str
    rows: int
    forged: int
    pixels: PixelCounts
    bytes: int
    sha256: str
    rejects: list[Reject]
    statistics: StatisticsDocument
    seconds: float

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


def decode(content: bytes) -> ShardMarker | None:
    """The inverse of `encode`; None for anything else, for example a marker of another version."""
    try:
        return ShardMarker.model_validate_json(content)
    except ValidationError:
        return None
