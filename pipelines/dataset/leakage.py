"""Leakage: what datasets share, and whether a model, or its threshold, comes from the images that it is tested on."""

from typing import NamedTuple

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
    """Pairs of samples that come from nearly the same picture: one of `split` (None: of any) of this dataset, one of
    `other_splits` of the dataset at `other`.

    Returns two tables with the columns key, split, photo_hash and photo_hash_fine. Row i of the first and row i of the
    second are a pair; the second has a column `bits` too, the distance of their hashes.
    """
    ours = reader.columns(uri, manifest, _COLUMNS, split)
    theirs = reader.columns(other, Manifest.read(other), _COLUMNS)
    theirs = theirs.filter(pc.is_in(theirs["split"], pa.array(other_splits)))
    index, bits = duplicates.nearest(duplicates.from_columns(ours), duplicates.from_columns(theirs))
    hit = np.flatnonzero(index >= 0)
    return ours.take(hit), theirs.take(index[hit]).append_column("bits", pa.array(bits[hit]))


class _Seen(NamedTuple):
    """Splits of a dataset that a model has seen, and for what."""

    uri: str
    fingerprint: str
    splits: tuple[str, ...]
    use: str


def warnings(card: Card, uri: str, manifest: Manifest, split: str) -> list[str]:
    """Reasons why metrics of the model with this card on a split of this dataset may be too good; empty when none."""
    reasons = [] if "trained_on" in card else [UNKNOWN]
    for seen in _seen(card):
        if seen.fingerprint == manifest.fingerprint:
            if split in seen.splits:
                use = seen.use or ("the model was trained on" if split == "train" else "the model was chosen by")
                reasons.append(f"{use} split {split!r} of this very dataset; its metrics are too good")
            continue
        try:
            if Manifest.read(seen.uri).fingerprint != seen.fingerprint:
                raise MPCError("another dataset is at this location now")
            ours, theirs = shared(uri, manifest, seen.uri, split, seen.splits)
        except MPCError as error:
            what = "images that its threshold was chosen on" if seen.use else "its training images"
            reasons.append(f"it is unknown whether {what} are among these: {seen.uri}: {error}")
            continue
        if len(ours):
            example = f"{ours['key'][0].as_py()} and {theirs['key'][0].as_py()}"
            data = f"that {seen.use}" if seen.use else "it was trained on or chosen by"
            reasons.append(
                f"{len(ours)} of {manifest.splits[split].samples} images are in the data {data}"
                f" ({seen.uri}) too, or nearly ({example}); metrics on them measure memory"
            )
    return reasons


def _seen(card: Card) -> list[_Seen]:
    """What the model was trained on or chosen by, and, where that is another dataset, what its threshold was."""
    seen = [_Seen(one["uri"], one["fingerprint"], ("train", "validation"), "") for one in card.get("trained_on", [])]
    chosen = card.get("chosen_threshold")
    if chosen and all(one.fingerprint != chosen["fingerprint"] for one in seen):
        use = "the threshold of the model was chosen on"
        seen.append(_Seen(chosen["dataset"], chosen["fingerprint"], (chosen["split"],), use))
    return seen
