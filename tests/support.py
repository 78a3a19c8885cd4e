"""What tests of several folders compare by."""

import hashlib
from pathlib import Path


def tree(folder: str | Path) -> dict[str, str]:
    """sha256 of every file below a folder but the done-markers, which hold a time."""
    root = Path(folder)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not (path.suffix == ".json" and path.parent.name == "shards")
    }
