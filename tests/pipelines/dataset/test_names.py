"""What people call a split: its source where it is one, else the folder of the dataset."""

import pytest

from pipelines.config.root import Config
from pipelines.dataset import names
from pipelines.dataset.manifest import Manifest


@pytest.mark.parametrize(
    ("uri", "other", "name"),
    [
        ("s3://bucket/anything", False, "photos/test"),
        ("/data/columbia/", True, "columbia/test"),
        ("/runs/mine/dataset", True, "mine/test"),
    ],
)
def test_a_split_is_called_after_its_source_or_its_folder(uri: str, other: bool, name: str, built: Config) -> None:
    manifest = Manifest.read(str(built.build.output))
    if other:
        first = next(shard for shard in manifest.shards if shard.split == "test")
        added = first.model_copy(update={"source": "other"})
        manifest = manifest.model_copy(update={"shards": [*manifest.shards, added]})
    assert names.of_split(uri, manifest, "test") == name
