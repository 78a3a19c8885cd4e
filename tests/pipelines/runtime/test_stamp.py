"""A stamp tells a replaced file from the one that was there."""

import json
import os
from pathlib import Path

from pipelines.runtime import storage
from pipelines.runtime.stamp import Stamp


def test_the_stamp_of_a_file_is_its_size_and_time(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    os.utime(file, ns=(0, 1_700_000_000_123_456_789))
    assert storage.stamp(str(file)) == Stamp(size=3, mtime_ns=1_700_000_000_123_456_789)


def test_a_replaced_file_of_the_same_size_has_another_stamp(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    os.utime(file, ns=(0, 1))
    before = storage.stamp(str(file))
    file.write_bytes(b"abd")
    os.utime(file, ns=(0, 2))
    assert storage.stamp(str(file)) != before


def test_a_stamp_in_a_json_document_is_a_pair() -> None:
    assert Stamp(*json.loads(json.dumps(Stamp(3, 2**62)))) == Stamp(3, 2**62)
