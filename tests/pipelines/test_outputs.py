"""Output folders: whose they are, and what is no place for one."""

from pathlib import Path
from typing import Any

import pytest

from mpc_model.errors import UserError
from pipelines import console, outputs, recipe, storage


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.getfixturevalue('s3')}/outputs" if request.param == "s3" else str(tmp_path)


def test_a_folder_of_other_files_is_not_written_to(place: str) -> None:
    config, where = recipe.load(None), storage.join(place, "album")
    storage.write_bytes(storage.join(where, "summer", "beach.jpg"), b"x")
    with pytest.raises(UserError, match=r"album/summer/beach\.jpg, which is not of predict; set predict\.output to"):
        outputs.claim(where, "predict", {}, config)
    assert [file.rsplit("/", 1)[-1] for file in storage.list_files(where)] == ["beach.jpg"]


def test_what_a_command_left_before_its_record_is_its_own(place: str) -> None:
    config, where = recipe.load(None), storage.join(place, "half")
    for name in ("config.yaml", "lease/000001.json"):
        storage.write_bytes(storage.join(where, name), b"")
    assert not outputs.claim(where, "predict", {"model": 1}, config).resumed
    assert outputs.claim(where, "predict", {"model": 1}, config).resumed
    with pytest.raises(UserError, match="model differs"):
        outputs.claim(where, "predict", {"model": 2}, config)


def test_a_place_where_no_folder_can_be_made_is_said() -> None:
    with pytest.raises(UserError, match=r"cannot write /proc/here/record\.json: no folder can be made there"):
        storage.write_bytes("/proc/here/record.json", b"x")


def test_progress_without_a_total_has_no_end(capsys: Any) -> None:
    progress = console.Progress("tune", None, "trials", done=2, every_seconds=0)
    progress.advance()
    said = capsys.readouterr().err
    assert said.startswith("tune: 3 trials, ")
    assert "left" not in said
