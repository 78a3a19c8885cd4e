"""Done-markers: they come back from their bytes, list their shard, and anything else is no marker."""

import copy
import json
from pathlib import Path

from pipelines.config.root import Config
from pipelines.dataset import shard_marker
from pipelines.dataset.manifest import Manifest


def test_markers_come_back_from_their_bytes_and_list_their_shard(built: Config) -> None:
    shards = {shard.name: shard for shard in Manifest.read(str(built.build.output)).shards}
    files = sorted(Path(str(built.build.output), "shards").glob("*.json"))
    assert len(files) == len(shards) > 1
    for file in files:
        marker = shard_marker.decode(file.read_bytes())
        assert marker
        assert shard_marker.encode(marker) == file.read_bytes()
        assert marker.entry() == shards[file.stem]


def test_what_is_no_marker_is_none(built: Config) -> None:
    file = next(Path(str(built.build.output), "shards").glob("*.json"))
    whole = json.loads(file.read_text())
    other = copy.deepcopy(whole)
    del other["plan"]
    for content in (b"", b"{}", b"[]", file.read_bytes()[:-20], json.dumps(other).encode()):
        assert shard_marker.decode(content) is None
    assert shard_marker.decode(json.dumps(whole).encode()) is not None


def test_a_marker_of_two_classes_has_no_key_that_earlier_versions_do_not_know(built: Config) -> None:
    file = next(Path(str(built.build.output), "shards").glob("*.json"))
    assert not {"class_pixels", "unlabelled"} & json.loads(file.read_text()).keys()
