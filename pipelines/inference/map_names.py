"""Under which name the map of an image is stored: the path of the image below the input, where a file may have it."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from pipelines.runtime import uris

MAP_SUFFIX, OVERLAY_SUFFIX = ".png", ".jpg"
_NAME_BYTES = 255
"""Of one part of a path, on the usual filesystems."""
_PATH_BYTES, _KEY_BYTES = 4095, 1024
"""Of a whole path of Linux, and of a key of S3."""


def map_location(output: str, name: str) -> str:
    """Where the map of the image of a name lies."""
    return uris.join(output, "maps", name + MAP_SUFFIX)


def overlay_location(output: str, name: str) -> str:
    """Where the overlay of the image of a name lies."""
    return uris.join(output, "overlays", name + OVERLAY_SUFFIX)


def map_names(images: Collection[str], source: str, output: str, is_folded: bool) -> Iterator[str]:
    """For each of the images below `source`, or of those that a listing in the folder `source` names, its name below
    `output`, unique among them.

    It is the path below `source`; of an image elsewhere its whole location, such as `@s3/bucket/photo.jpg` or
    `@file/data/photo.jpg`. Where no file can have that path, it has a digest, as in `photo~0a1b2c3d4e5f`: the
    path is too long, steps out of the folder (keys of objects may hold `..`), or is that of a folder of another map; or
    another map would be the same file, because the output takes upper and lower case for the same (`is_folded`).
    """
    elsewhere = not all(_is_below(image, source) for image in images)
    folders = {path[:end] for path in _below(images, source) for end in _ends_of_folders(path)}
    files = Counter(map(_folded, _below(images, source))) if is_folded else Counter[str]()
    room = _KEY_BYTES if uris.is_remote(output) else _PATH_BYTES - len(os.fsencode(f"{output}/overlays/"))
    for image, path in zip(images, _below(images, source), strict=True):
        parts = path.split("/")
        fits = len(os.fsencode(path)) + len(MAP_SUFFIX) <= room and all(
            len(os.fsencode(part)) + len(MAP_SUFFIX) <= _NAME_BYTES for part in parts
        )
        clear = folders.isdisjoint((path + MAP_SUFFIX, path + OVERLAY_SUFFIX)) and files[_folded(path)] < 2
        is_sure = not (elsewhere and path.startswith("@") and _is_below(image, source))
        if fits and clear and is_sure and not {"", ".", ".."}.intersection(parts):
            yield path
        else:
            digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
            yield f"{parts[-1][:40]}~{digest}"


def _below(images: Iterable[str], source: str) -> Iterator[str]:
    """The path of each image below the input."""
    return (_path(image, source) for image in images)


def _is_below(image: str, source: str) -> bool:
    return image == source or image.startswith(f"{source.rstrip('/')}/")


def _path(image: str, source: str) -> str:
    """The path of an image below the input, its name where it is the input itself, or its whole location."""
    if not _is_below(image, source):
        scheme, _, path = image.partition("://") if uris.is_remote(image) else ("file", "", image)
        return f"@{scheme}/{path.lstrip('/')}"
    return image[len(source) :].removeprefix("/") or image.rsplit("/", 1)[-1]


def _ends_of_folders(path: str) -> Iterator[int]:
    end = path.find("/")
    while end >= 0:
        yield end
        end = path.find("/", end + 1)


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()
