"""What tells whether a file was replaced."""

from typing import NamedTuple


class Stamp(NamedTuple):
    """Bytes of a file and the time of its last change (ns)."""

    size: int
    mtime_ns: int
