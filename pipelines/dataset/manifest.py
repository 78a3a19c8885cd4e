"""The manifest: the JSON, written last, that makes shards a pixel dataset.

    {"schema_version": 2, "config": {...}, "asked": sha256 of config and listing, "seed": 0,
     "sources": {name: {"repeat": 1, "listed": n, "samples": n, "rejected": n}},    listed = samples + rejected
     "splits": {name: {"samples": n, "forged": n, "pixels": {"authentic": n, "forged": n}}},
     "shards": [{"name", "split", "source", "rows", "bytes", "sha256"}], "row_group": 16, "views": 4,
     "statistics": {...} (pipelines/dataset/counts.py), "near_duplicates": {...} (pipelines/dataset/duplicates.py),
     "rejects": sha256 of rejects.parquet, "fingerprint": sha256 of the canonical JSON of what the dataset is,
     "seal": sha256 of the canonical JSON of all of this}

It holds nothing that differs between two builds of the same inputs: no times, no hosts. The fingerprint covers
everything but how it came about and what is only said of it, so the same pixels have the same fingerprint wherever they
were built.
"""

import hashlib
import json
from typing import Any

from mpc_model.errors import DataError
from pipelines.runtime import storage, uris

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"


def canonical_json(value: Any) -> bytes:
    """One byte string for one value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def fingerprint(content: dict[str, Any]) -> str:
    """The identity of a dataset: a hash over its shards, counts and seed."""
    provenance = ("config", "config_digest", "asked", "statistics", "near_duplicates", "rejects", "fingerprint", "seal")
    return digest({key: value for key, value in content.items() if key not in provenance})


def write(uri: str, manifest: dict[str, Any]) -> None:
    """Make the dataset visible. Call it after everything else is in place."""
    sealed = manifest | {"seal": _seal(manifest)}
    storage.write_bytes(uris.join(uri, MANIFEST), json.dumps(sealed, indent=1, sort_keys=True).encode("ascii") + b"\n")


def _seal(manifest: dict[str, Any]) -> str:
    """A digest of all of it, to notice that it was changed."""
    return digest({key: value for key, value in manifest.items() if key != "seal"})


def exists(uri: str) -> bool:
    """Whether a finished dataset is there."""
    return storage.exists(uris.join(uri, MANIFEST))


def read(uri: str) -> dict[str, Any]:
    """The manifest of a dataset.

    Raises DataError when there is none (not a dataset, or an unfinished build), when it was changed after it was
    written, or when it is of a schema this version does not know.
    """
    if not exists(uri):
        raise DataError(f"no pixel dataset at {uri}: it has no {MANIFEST}; run `mpc build`, or name a finished one")
    try:
        manifest = json.loads(storage.read_bytes(uris.join(uri, MANIFEST)))
        claimed, version, seal = manifest["fingerprint"], manifest["schema_version"], manifest.get("seal")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{uris.join(uri, MANIFEST)} is not a dataset manifest; delete the dataset and build it anew"
        ) from None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"dataset {uri} has schema {version}, this version reads {SCHEMA_VERSION};"
            " delete the dataset and build it anew"
        )
    if claimed != fingerprint(manifest) or seal != _seal(manifest):
        raise DataError(f"the manifest of {uri} was changed after it was written; delete the dataset and build it anew")
    return dict(manifest)
