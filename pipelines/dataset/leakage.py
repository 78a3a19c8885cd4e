"""What two datasets share, and what a model saw of the images that it is tested on."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mpc_model.card import Card
from mpc_model.errors import MPCError
from pipelines.dataset import duplicates, reader
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.schema import SPLITS

UNKNOWN = "the model does not say what it was trained on, so its training images may be among these"
"""The warning for a model without a list of its training datasets."""
_COLUMNS = ("key", "split", *duplicates.COLUMNS)


def shared(
    uri: str,
    manifest: Manifest,
    other: str,
    split: str | None = None,
    other_splits: tuple[str, ...] = SPLITS,
) -> tuple[pa.Table, pa.Table]:
    """Samples of a dataset's `split` (None: all) and the samples of another's splits that come from nearly the same
    picture.

    Returns two tables (key, split, photo_hash, photo_hash_fine), row for row beside each other, the second with a
    column `bits`.
    """
    ours = reader.columns(uri, manifest, _COLUMNS, split)
    theirs = reader.columns(other, Manifest.read(other), _COLUMNS)
    theirs = theirs.filter(pc.is_in(theirs["split"], pa.array(other_splits)))
    index, bits = duplicates.nearest(duplicates.from_columns(ours), duplicates.from_columns(theirs))
    hit = np.flatnonzero(index >= 0)
    return ours.take(hit), theirs.take(index[hit]).append_column("bits", pa.array(bits[hit]))


def warnings(card: Card, uri: str, manifest: Manifest, split: str) -> list[str]:
    """What makes a test of the model with this card on a split say less than it seems to; empty when nothing does."""
    if "trained_on" not in card:
        return [UNKNOWN]
    found = []
    for seen in card["trained_on"]:
        if seen["fingerprint"] == manifest.fingerprint:
            if split != "test":
                use = "trained on" if split == "train" else "chosen by"
                found.append(f"the model was {use} split {split!r} of this very dataset; its figures are too good")
            continue
        try:
            if Manifest.read(seen["uri"]).fingerprint != seen["fingerprint"]:
                raise MPCError("another dataset is there now")
            ours, theirs = shared(uri, manifest, seen["uri"], split, ("train", "validation"))
        except MPCError as error:
            found.append(f"whether its training images are among these cannot be told: {seen['uri']}: {error}")
            continue
        if len(ours):
            example = f"{ours['key'][0].as_py()} and {theirs['key'][0].as_py()}"
            found.append(
                f"{len(ours)} of {manifest.splits[split].samples} images are in the data it was trained on or"
                f" chosen by ({seen['uri']}) too, or nearly ({example}); figures on them measure memory"
            )
    return found
