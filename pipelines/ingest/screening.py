"""What a build leaves out, and why: a row of rejects.parquet for every sample, and the limit that stops the build."""

from collections import Counter
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mpc_model.errors import DataError
from pipelines.config.build import BuildConfig
from pipelines.dataset import duplicates
from pipelines.dataset.rejects import REJECTS, Reject
from pipelines.dataset.schema import AUTHENTIC, PHOTO
from pipelines.ingest import listing
from pipelines.runtime import uris


def sort_out(config: BuildConfig, listed: pa.Table, survey: pa.Table) -> tuple[pa.Table, list[Reject]]:
    """The good items, with what the survey found of them beside, and a row for every sample of the others.

    Of items with the same image, byte for byte, the first one listed is good; none is where they contradict each other
    (authentic and forged, or two masks).
    """
    repeated, torn = _repeated(listed, survey)
    bad = survey["reason"].is_valid().to_numpy() | repeated | torn
    # What the survey has read is known by its digest; sizes and times have served.
    good = listed.drop_columns(
        [f"{name}_{what}" for name in ("image", "mask") for what in ("bytes", "changed")]
    ).filter(~bad)
    for name in ("image_sha256", "mask_sha256", *duplicates.COLUMNS):
        good = good.append_column(name, survey[name].filter(~bad))
    samples = {source.name: source.samples_per_photo for source in config.sources}
    rejects = list[Reject]()
    owners = _owners(listed, survey, repeated)
    found = zip(
        listing.columns(listed.filter(bad), "source", "name", "kind", "image"),
        listing.columns(survey.filter(bad), "reason", "message", "image_sha256"),
        torn[bad].tolist(),
        strict=True,
    )
    stage: Literal["survey", "plan"]
    for (source, name, kind, image), (reason, message, digest), contradicted in found:
        stage = "survey"
        if contradicted:
            stage, reason = "plan", "contradiction"
            message = f"{image} is declared {kind}, and the same file elsewhere something else; find out which is true"
        elif reason is None:
            stage, reason = "plan", "duplicate"
            message = f"{image} is the same file as {owners[digest]}, which is kept; leave one out"
        for number in range(samples[source]) if kind == PHOTO else [None]:
            key = listing.sample_key(source, name, number)
            rejects.append(Reject(sample=key, source=source, stage=stage, reason=reason, message=message))
    return good.combine_chunks(), rejects


def check(config: BuildConfig, rejects: list[Reject], listed: int) -> None:
    """DataError, with the commonest reasons, when more than `build.max_reject_fraction` of the samples are bad."""
    if len(rejects) <= config.max_reject_fraction * listed and len(rejects) < listed:
        return
    reasons = ", ".join(f"{reason} ({count})" for reason, count in Counter(r["reason"] for r in rejects).most_common(3))
    raise DataError(
        f"{len(rejects)} of {listed} samples cannot be used: {reasons}; the first: {rejects[0]['message']}."
        f" {uris.join(str(config.output), REJECTS)} lists them all; mend them, or raise build.max_reject_fraction to"
        " leave them out"
    )


def _repeated(listed: pa.Table, survey: pa.Table) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Items (N,) whose image is, byte for byte, that of an earlier one, and items (N,) whose image is declared both
    authentic and forged, or forged with two masks. Images that were not read are no one's."""
    image, mask = (_numbered(survey[name]) for name in ("image_sha256", "mask_sha256"))
    repeated = image >= 0
    repeated[np.unique(image, return_index=True)[1]] = False
    kinds = (kind for (kind,) in listing.columns(listed, "kind"))
    # What an item says of its image: nothing (-2: to forge from), that it is authentic (-1), or what is forged in it.
    said = np.fromiter((-2 if kind == PHOTO else -1 if kind == AUTHENTIC else 0 for kind in kinds), np.int64)
    said = np.where(said == 0, mask + 1, said)
    claims = np.unique(np.stack([image, said])[:, (image >= 0) & (said > -2)], axis=1)[0]
    return repeated, np.isin(image, claims[1:][np.diff(claims) == 0])


def _numbered(digests: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number (N,) for each digest, -1 where there is none."""
    numbers = digests.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    return np.asarray(numbers, np.int64)


def _owners(listed: pa.Table, survey: pa.Table, repeated: npt.NDArray[np.bool_]) -> dict[bytes, str]:
    """By digest, the location of the image that is kept of each that comes more than once."""
    wanted = pc.is_in(survey["image_sha256"], survey["image_sha256"].filter(repeated).combine_chunks())
    kept = np.asarray(wanted) & ~repeated
    images = listing.columns(listed.filter(kept), "image")
    digests = listing.columns(survey.filter(kept), "image_sha256")
    return {digest: image for (image,), (digest,) in zip(images, digests, strict=True)}
