"""The scores of single images that a version carries, so that two versions can be compared image by image.

`evaluations/<name>.parquet` of an entry has the columns NEEDED (artifacts/scored_sets.py) of the images.parquet of an
evaluation.
"""

import io
import math

import pyarrow as pa
import pyarrow.parquet as pq

from mpc_model.evaluation.bootstrap import FEW_IMAGES, Replicates
from pipelines.artifacts.evaluation import Difference
from pipelines.artifacts.scored_sets import NEEDED


def taken_from(images: bytes) -> bytes:
    """The file of a version, from an evaluation's images.parquet."""
    sink = io.BytesIO()
    pq.write_table(pq.read_table(pa.BufferReader(images), columns=list(NEEDED)), sink)
    return sink.getvalue()


def difference(candidate: bytes, champion: bytes) -> tuple[Difference, int] | None:
    """The mean F1 of one minus that of the other, with its 95% interval by a paired bootstrap, over the forged images
    that both were scored on, and how many these are. None where these are fewer than FEW_IMAGES."""
    ours, theirs = _f1_by_id(candidate), _f1_by_id(champion)
    ids = sorted(ours.keys() & theirs.keys())
    if len(ids) < FEW_IMAGES:
        return None
    paired = Replicates(["candidate", "champion"])
    paired.add(ids, {"candidate": [ours[one] for one in ids], "champion": [theirs[one] for one in ids]})
    apart = paired.difference("candidate", "champion")
    assert apart is not None  # there are images
    return Difference(difference=apart.value, low=apart.low, high=apart.high), len(ids)


def _f1_by_id(data: bytes) -> dict[str, float]:
    table = pq.read_table(pa.BufferReader(data), columns=["id", "f1"])
    pairs = zip(table["id"].to_pylist(), table["f1"].to_pylist(), strict=True)
    return {one: f1 for one, f1 in pairs if f1 is not None and not math.isnan(f1)}
