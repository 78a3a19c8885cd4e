"""Output folders: whose they are, and what is no place for one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpc_model.errors import UserError
from pipelines.artifacts import record
from pipelines.config import recipe
from pipelines.runtime import console, storage, uris


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.getfixturevalue('s3')}/outputs" if request.param == "s3" else str(tmp_path)


def test_a_folder_of_other_files_is_not_written_to(place: str) -> None:
    config, where = recipe.load(None), uris.join(place, "album")
    storage.write_bytes(uris.join(where, "summer", "beach.jpg"), b"x")
    with pytest.raises(UserError, match=r"album/summer/beach\.jpg, which is not of predict; set predict\.output to"):
        record.claim(where, "predict", {}, config.dump())
    assert [file.rsplit("/", 1)[-1] for file in storage.list_files(where)] == ["beach.jpg"]


def test_what_a_command_left_before_its_record_is_its_own(place: str) -> None:
    config, where = recipe.load(None), uris.join(place, "half")
    for name in ("config.yaml", "lease/000001.json"):
        storage.write_bytes(uris.join(where, name), b"")
    assert not record.claim(where, "predict", {"model": 1}, config.dump()).resumed
    assert record.claim(where, "predict", {"model": 1}, config.dump()).resumed
    with pytest.raises(UserError, match="model differs"):
        record.claim(where, "predict", {"model": 2}, config.dump())


def test_a_place_where_no_folder_can_be_made_is_said() -> None:
    with pytest.raises(UserError, match=r"cannot write /proc/here/record\.json: no folder can be made there"):
        storage.write_bytes("/proc/here/record.json", b"x")


@pytest.mark.parametrize(
    "changed",
    [{"identity": None}, {"finished": "no"}, {"results": None}, {"verb": 3}, {"results": "x"}],
    ids=lambda changed: next(iter(changed.items())),
)
def test_a_record_that_is_damaged_is_told(tmp_path: Path, changed: dict[str, Any]) -> None:
    record.claim(str(tmp_path / "here"), "predict", {"model": 1}, recipe.load(None).dump())
    file = tmp_path / "here" / "record.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps(whole | changed))
    with pytest.raises(UserError, match=rf"{file} is damaged"):
        record.read(str(tmp_path / "here"))


def test_a_reader_that_went_away_does_not_end_a_command() -> None:
    """mpc ... 2>&1 | head -1"""
    code = (
        "import sys\nfrom pipelines.runtime import console\nsys.stdin.readline()\nconsole.say('a')\nconsole.say('b')\n"
    )
    code += "progress = console.Progress('x', 2, 'y', every_seconds=0)\nprogress.advance(2)\nprint('done')"
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as running:
        assert running.stderr
        running.stderr.close()
        assert running.communicate("go\n", timeout=60)[0] == "done\n"
    assert running.returncode == 0


def test_progress_without_a_total_has_no_end(capsys: Any) -> None:
    progress = console.Progress("tune", None, "trials", done=2, every_seconds=0)
    progress.advance()
    said = capsys.readouterr().err
    assert said.startswith("tune: 3 trials, ")
    assert "left" not in said
