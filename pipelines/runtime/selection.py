"""The files of a folder or prefix that a command takes, chosen by their names, and what it says of all others."""

from collections import Counter
from pathlib import PurePosixPath
from typing import NamedTuple

from pipelines.runtime import storage, uris
from pipelines.runtime.stamp import Stamp

NAMED = 3
"""Files that are named of those that are passed over."""
_KINDS = 8
"""Kinds of them that are counted one by one."""


class Selection(NamedTuple):
    """`files` are taken: location -> stamp, sorted. `passed_over` says how many are not, which, and why; it is empty
    where there are none."""

    files: dict[str, Stamp]
    passed_over: str


def select(folder: str, suffixes: tuple[str, ...], what: str = "images") -> Selection:
    """Choose the files whose names end in one of `suffixes` (lower case, with the dot); upper case is taken as well.

    A pipe, a socket, a device, and a folder that may not be listed, are passed over whatever their names. Raises
    UserError when there is no such folder.
    """
    files, names, kinds = dict[str, Stamp](), list[str](), Counter[str]()
    below = len(uris.absolute(folder))
    for location, stamp in storage.listing(folder):
        if isinstance(stamp, Stamp) and location.lower().endswith(suffixes):
            files[location] = stamp
            continue
        if len(names) < NAMED:
            names.append(location[below:].lstrip("/"))
        suffix = PurePosixPath(location).suffix or "without suffix"
        kinds[suffix if isinstance(stamp, Stamp) else stamp] += 1
    return Selection(files, _described(kinds, names, what) if kinds else "")


def _described(kinds: Counter[str], names: list[str], what: str) -> str:
    """`3 files are passed over as no images (1 .heic, 2 without suffix): a.heic, b, c`."""
    total, common = kinds.total(), kinds.most_common(_KINDS)
    counted = [f"{count} {kind}" for kind, count in sorted(common)]
    if rest := total - sum(count for _, count in common):
        counted.append(f"{rest} of other kinds")
    more = f" and {total - len(names)} more" if total > len(names) else ""
    subject = "1 file is" if total == 1 else f"{total} files are"
    return f"{subject} passed over as no {what} ({', '.join(counted)}): {', '.join(names)}{more}"
