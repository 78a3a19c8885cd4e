"""What is taken of a folder by its name, and the line about everything else."""

import os
from pathlib import Path

import pytest

from pipelines.runtime import selection, storage, uris


def test_files_are_taken_by_their_names_and_all_others_are_counted_and_three_are_named(tmp_path: Path) -> None:
    for name in ("b.png", "deep/A.JPG", "notes.txt", "IMG.HEIC", "deep/x.heic", "plain", "Icon\r", ".hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    os.mkfifo(tmp_path / "pipe.png")
    found = selection.select(str(tmp_path), (".png", ".jpg"))
    assert list(found.files) == [str(tmp_path / name) for name in ("b.png", "deep/A.JPG")]
    assert found.files == storage.list_stamps(str(tmp_path), (".png", ".jpg"))
    assert found.passed_over == (
        "6 files are passed over as no images (1 .HEIC, 1 .heic, 1 .txt, 1 a pipe, 2 without suffix):"
        " IMG.HEIC, Icon\\x0d, deep/x.heic and 3 more"
    )


@pytest.mark.parametrize("place", ["local", "s3"])
def test_where_everything_is_taken_nothing_is_said(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = str(tmp_path) if place == "local" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    storage.write_bytes(uris.join(root, "a.png"), b"1")
    found = selection.select(root, (".png",))
    assert (list(found.files), found.passed_over) == ([uris.join(root, "a.png")], "")
    storage.write_bytes(uris.join(root, "b.gif"), b"1")
    assert selection.select(root, (".png",)).passed_over == "1 file is passed over as no images (1 .gif): b.gif"


def test_of_many_kinds_the_most_common_are_counted_one_by_one(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.{number:02}").touch()
    (tmp_path / "x.00").touch()
    words = selection.select(str(tmp_path), (".png",)).passed_over
    assert words.startswith("31 files are passed over as no images (2 .00, 1 .01, ")
    assert "22 of other kinds): 0.00, 1.01, 10.10 and 28 more" in words
