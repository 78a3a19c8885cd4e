"""docs/errors.md: its commands are refused in the words of the page."""

import re
import shlex
from pathlib import Path

import pytest

from pipelines import cli

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
REFUSALS = [
    pair
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for pair in re.findall(r"^\$ mpc (.+)\n(.+)$", block, re.MULTILINE)
]


def test_the_page_shows_a_refusal_of_every_command_that_takes_input() -> None:
    assert {command.split()[0] for command, _ in REFUSALS} == {
        "build",
        "inspect",
        "pretrain",
        "finetune",
        "adapt",
        "tune",
        "evaluate",
        "register",
        "promote",
        "predict",
        "models",
        "compare",
        "view",
    }


@pytest.mark.parametrize(("command", "words"), REFUSALS)
def test_a_refusal_reads_as_on_the_page(
    command: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(shlex.split(command)) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert re.fullmatch(".*".join(map(re.escape, words.split("..."))), last), last
