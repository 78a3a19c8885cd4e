"""Masks that belong to no image. They are named, and refused where they look like those that images lack."""

import re
from collections.abc import Iterable, Iterator, Mapping

from mpc_model.errors import UserError
from pipelines.runtime import console

MISNAMED = 0.05
"""Share of the images from which on masks that are only named otherwise stop the build."""
_EXAMPLES = 3
_SEPARATORS = re.compile(r"[^0-9a-z]+")


def check(source: str, images: Mapping[str, str], masks: Mapping[str, str]) -> None:
    """Name the masks of a source that belong to no image.

    `images` and `masks` are paths below the source by stem; the same stem belongs together. Raises UserError, naming
    examples, where many images have no mask and masks of a similar name (000_gt, mask-000, 000 for 000_tampered) are
    left over.
    """
    unused = {stem: path for stem, path in masks.items() if stem not in images}
    lacking = {stem: path for stem, path in images.items() if stem not in masks}
    similar = [f"{unused[mask]} for {lacking[image]}" for mask, image in _similar(unused, lacking)]
    if similar and len(similar) > MISNAMED * len(images):
        raise UserError(
            f"source {source}: {len(lacking)} of {len(images)} images have no mask of the same name, and masks of"
            f" similar names are left over: {_first(similar)}; give each mask the name of its image, or name both in a"
            " listing (a CSV file with the columns image and mask)"
        )
    say(source, unused.values(), similar)


def say(source: str, unused: Iterable[str], similar: list[str] | None = None) -> None:
    """One line about the masks (paths) that belong to no image, if there are any."""
    if names := sorted(unused):
        alike = f"; of similar names are {_first(similar)}" if similar else ""
        console.warn(
            f"build: source {source}: masks that belong to no image, and are not used: {len(names)} ({_first(names)})"
            f"{alike}"
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")


def _similar(masks: Iterable[str], images: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of a mask and the one image whose stem is a part of the mask's, or the other way round; each image once."""
    by_stem = {image.lower(): image for image in images}
    by_part: dict[str, list[str]] = {}
    for image in images:
        for part in _parts(image):
            by_part.setdefault(part, []).append(image)
    taken = set[str]()
    for mask in masks:
        containing = by_part.get(mask.lower(), [])
        found = next((by_stem[part] for part in _parts(mask) if part in by_stem), None)
        if found is None and len(containing) == 1:
            found = containing[0]
        if found is not None and found not in taken:
            taken.add(found)
            yield mask, found


def _parts(stem: str) -> list[str]:
    """A stem in lower case, and what is before or after each of its separators, the longest first."""
    lower = stem.lower()
    cuts = [match.span() for match in _SEPARATORS.finditer(lower)]
    parts = {lower, *(lower[:start] for start, _ in cuts), *(lower[end:] for _, end in cuts)} - {""}
    return sorted(parts, key=lambda part: (-len(part), part))
