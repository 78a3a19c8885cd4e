"""`mpc bench` measures what it says it measures. No test asserts how fast anything is."""

from pathlib import Path

import pytest

from mpc_model.errors import UserError
from pipelines import cli


def test_an_unknown_group_is_the_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--group", "buidl", "--output", str(tmp_path / "bench.json")]) == UserError.exit_code
    assert "did you mean 'build'" in capsys.readouterr().err
    assert not (tmp_path / "bench.json").exists()
