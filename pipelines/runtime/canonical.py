"""Canonical JSON: one byte string for one value, and its digest."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def canonical_json(value: Any) -> bytes:
    """A value as JSON with sorted keys, without spaces, in ASCII. ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def digest_of_many(items: Iterable[Any], *others: Any) -> str:
    """`digest([[*items], *others])`, with one item in memory at a time."""
    hashed = hashlib.sha256(b"[[")
    for number, item in enumerate(items):
        hashed.update((b"," if number else b"") + canonical_json(item))
    hashed.update(b"]" + b"".join(b"," + canonical_json(other) for other in others) + b"]")
    return hashed.hexdigest()
