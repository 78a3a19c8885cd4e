"""`mpc init`: a recipe that is accepted as it is, and that overwrites nothing."""

from pathlib import Path
from typing import Any

import pytest

from pipelines import cli
from pipelines.config import recipe


@pytest.mark.parametrize(
    ("arguments", "layout", "data"),
    [
        ([], "photos", "photos"),
        (["--data", "/d/my: images #1"], "photos", "/d/my: images #1"),
        (["--data", "s3://bucket/pairs", "--layout", "pairs"], "pairs", "s3://bucket/pairs"),
    ],
)
def test_the_recipe_is_accepted_as_it_is(
    arguments: list[str], layout: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "first.yaml", *arguments]) == 0
    assert "mpc build --config first.yaml" in capsys.readouterr().err
    config = recipe.load("first.yaml")
    (source,) = config.build.sources
    assert (source.layout, source.location) == (layout, data if "://" in data else str(tmp_path / data))
    assert config.workspace == str(tmp_path / "runs" / "first")
    assert (tmp_path / "first.yaml").read_text().count("#") > 10


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mpc.yaml").write_text("mine")
    assert cli.main(["init"]) == 2
    assert capsys.readouterr().err == "mpc init: mpc.yaml is there already; name another file, or delete it\n"
    assert Path("mpc.yaml").read_text() == "mine"
    assert cli.main(["init", "no/such/folder.yaml"]) == 2
    assert "cannot write no/such/folder.yaml" in capsys.readouterr().err


def test_a_recipe_that_no_command_would_accept_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "--data", "gx://bucket/photos"]) == 2
    assert "this scheme is not supported" in capsys.readouterr().err
    assert not Path("mpc.yaml").exists()
    assert cli.main(["init", "--data", "photos"]) == 0
