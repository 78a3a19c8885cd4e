"""Screening: which items a build leaves out and why, and the limit at which too many of them stop it.

Every sample that is left out becomes a row of rejects.parquet.
"""

from collections import Counter
from enum import IntEnum
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mpc_model.errors import DataError
from pipelines.config.build import BuildConfig
from pipelines.dataset import duplicates
from pipelines.dataset.rejects import REJECTS, Reject
from pipelines.dataset.schema import AUTHENTIC, PHOTO, UNLABELLED
from pipelines.ingest import listing
from pipelines.runtime import uris

_SURVEYED = ("image_sha256", "mask_sha256", *duplicates.COLUMNS)
NAMED = 3
"""Groups that are named of those that lack images."""
_NO_DIGEST = -1
"""In `_number`: no file, or one that could not be read."""


class Claim(IntEnum):
    """What an item claims about its image. Two different claims about the same image contradict each other."""

    NONE = -2
    """A photograph to forge from, or an image without labels, claims nothing."""
    AUTHENTIC = -1
    FORGED = 1
    """With the number of its mask added: forged by two different masks are two claims."""


def screen(config: BuildConfig, listed: pa.Table, survey: pa.Table) -> tuple[pa.Table, list[Reject]]:
    """Divide the items of a listing, given their survey, into the good ones and rows for the samples of all others.

    The good ones (rows: plan.GoodItem) keep their order. Of items with the same image, byte for byte, the first one
    listed is good, but none of them if they contradict each other (authentic and forged, or two masks).
    """
    repeated, contradicted = _repeated(listed, survey)
    bad = survey["reason"].is_valid().to_numpy() | repeated | contradicted
    stamps = [f"{name}_{what}" for name in ("image", "mask", "scribble") for what in ("bytes", "changed")]
    good = listed.drop_columns(stamps).filter(~bad)  # from here on, digests identify the files
    for name in _SURVEYED:
        good = good.append_column(name, survey[name].filter(~bad))
    samples = {source.name: source.samples_per_photo for source in config.sources}
    rejects = list[Reject]()
    first_images = _first_images(listed, survey, repeated)
    bad_items = zip(
        listing.columns(listed.filter(bad), "source", "name", "kind", "image"),
        listing.columns(survey.filter(bad), "reason", "message", "image_sha256"),
        contradicted[bad].tolist(),
        strict=True,
    )
    stage: Literal["survey", "plan"]
    for (source, name, kind, image), (reason, message, digest), contradicts in bad_items:
        stage = "survey"
        if contradicts:
            stage, reason = "plan", "contradiction"
            message = f"{image} is declared {kind}, and the same file elsewhere something else; find out which is true"
        elif reason is None:
            stage, reason = "plan", "duplicate"
            message = f"{image} is the same file as {first_images[digest]}, which is kept; leave one out"
        for number in range(samples[source]) if kind == PHOTO else [None]:
            key = listing.sample_key(source, name, number)
            rejects.append(Reject(sample=key, source=source, stage=stage, reason=reason, message=message))
    return good.combine_chunks(), rejects


def incomplete_groups(config: BuildConfig, listed: pa.Table, good: pa.Table) -> list[str]:
    """A sentence for each source of named classes whose groups, such as the slices of a volume, lose some of their
    items and keep others: metrics of volumes would be those of shorter ones."""
    sentences = []
    for source in config.sources if config.classes else ():
        before, after = (_group_sizes(table, source.name) for table in (listed, good))
        shorter = [
            f"{group} ({after[group]} of {count})" for group, count in before.items() if 0 < after[group] < count
        ]
        if shorter:
            more = f" and {len(shorter) - NAMED} more" if len(shorter) > NAMED else ""
            sentences.append(
                f"source {source.name}: {len(shorter)} groups lack some of their images, so that volumes made of them"
                f" are shorter: {', '.join(shorter[:NAMED])}{more}; mend what rejects.parquet names, or leave the whole"
                " group out"
            )
    return sentences


def _group_sizes(table: pa.Table, source: str) -> Counter[str]:
    """Items by group, of a source whose items are in groups."""
    own = table.filter(pc.equal(table["source"], source))["group"].drop_null()
    return Counter({value["values"]: value["counts"] for value in pc.value_counts(own).to_pylist()})


def check(config: BuildConfig, rejects: list[Reject], listed: int) -> None:
    """Raise DataError, with the most common reasons, if more than `build.max_reject_fraction` of `listed` samples are
    rejected, or all of them."""
    if len(rejects) <= config.max_reject_fraction * listed and len(rejects) < listed:
        return
    counts = Counter(reject["reason"] for reject in rejects)
    reasons = ", ".join(f"{reason} ({count})" for reason, count in counts.most_common(3))
    raise DataError(
        f"{len(rejects)} of {listed} samples cannot be used: {reasons}; the first: {rejects[0]['message']}."
        f" {uris.join(str(config.output), REJECTS)} lists them all; correct them, or raise build.max_reject_fraction to"
        " leave them out"
    )


def _repeated(listed: pa.Table, survey: pa.Table) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which items (N,) have the image, byte for byte, of an earlier one, and which (N,) an image about which two claims
    are made. Images that were not read count as neither."""
    image, mask = (_number(survey[name]) for name in ("image_sha256", "mask_sha256"))
    readable = image != _NO_DIGEST
    repeated = readable.copy()
    repeated[np.unique(image, return_index=True)[1]] = False
    photo, unlabelled, authentic = (
        pc.equal(listed["kind"], kind).combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
        for kind in (PHOTO, UNLABELLED, AUTHENTIC)
    )
    claim = np.select([photo | unlabelled, authentic], [int(Claim.NONE), int(Claim.AUTHENTIC)], Claim.FORGED + mask)
    claiming = readable & (claim != Claim.NONE)
    distinct_claims = np.unique(np.stack([image, claim])[:, claiming], axis=1)  # sorted by image
    claimed_image = distinct_claims[0]
    contradictory = claimed_image[1:][np.diff(claimed_image) == 0]
    return repeated, np.isin(image, contradictory)


def _number(digests: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number (N,) for each distinct digest, _NO_DIGEST where there is none."""
    numbers = digests.combine_chunks().dictionary_encode().indices.fill_null(_NO_DIGEST).to_numpy()
    return np.asarray(numbers, np.int64)


def _first_images(listed: pa.Table, survey: pa.Table, repeated: npt.NDArray[np.bool_]) -> dict[bytes, str]:
    """For the digest of each image that comes more than once, the location of the one listed first."""
    several = pc.is_in(survey["image_sha256"], survey["image_sha256"].filter(repeated).combine_chunks())
    first = np.asarray(several) & ~repeated
    images = listing.columns(listed.filter(first), "image")
    digests = listing.columns(survey.filter(first), "image_sha256")
    return {digest: image for (image,), (digest,) in zip(images, digests, strict=True)}
