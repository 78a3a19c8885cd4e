"""What people call a split of a dataset, beside its fingerprint."""

from pipelines.dataset.manifest import Manifest


def of_split(uri: str, manifest: Manifest, split: str) -> str:
    """`coverage/test`: the source where the split has one alone, else the folder of the dataset, and the split."""
    sources = {shard.source for shard in manifest.shards if shard.split == split and shard.rows}
    *above, folder = ["", *(part for part in uri.split("/") if part)]
    if len(sources) == 1:
        (folder,) = sources
    elif folder == "dataset" and above[-1]:  # where a workspace has its own
        folder = above[-1]
    return f"{folder}/{split}"
