"""The completion scripts, asked as a shell asks them."""

import shutil
import subprocess
from typing import Any

import pytest

from pipelines import cli
from pipelines.commands import COMMANDS


def script(shell: str, capsys: Any) -> str:
    """What `mpc completion` prints."""
    assert cli.main(["completion", shell]) == 0
    printed: str = capsys.readouterr().out
    return printed


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    typed = " ".join(f"'{word}'" for word in words)
    ask = f"{script}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _mpc 2>/dev/null\n"
    ask += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def test_bash_completes_commands_options_keys_and_recipes(capsys: Any) -> None:
    bash = script("bash", capsys)
    assert completed(bash, "mpc", "pre") == ["pretrain", "predict"]
    assert {*completed(bash, "mpc", "")} >= {*COMMANDS, "--version"}
    assert completed(bash, "mpc", "pretrain", "train.batch") == ["train.batch_size="]
    assert completed(bash, "mpc", "-q", "build", "build.sources.0.lay") == ["build.sources.0.layout="]
    assert completed(bash, "mpc", "promote", "--r") == ["--rollback"]
    assert completed(bash, "mpc", "build", "--config", "paper_l") == ["paper_large"]
    assert completed(bash, "mpc", "completion", "f") == ["fish"]
    assert completed(bash, "mpc", "config", "pre") == ["pretrain", "predict"]
    assert completed(bash, "mpc", "config", "ins") == []  # it reads no config
    assert completed(bash, "mpc", "evaluate", "train.batch") == []  # a key that evaluate does not read


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_script_names_every_command_and_is_valid_where_its_shell_is_here(shell: str, capsys: Any) -> None:
    printed = script(shell, capsys)
    for name in COMMANDS:
        assert name in printed
    assert "pretrain.temperature=" in printed
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=printed, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


def test_another_shell_is_refused(capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["completion", "cmd"])
    assert ended.value.code == 2
    assert "invalid choice" in capsys.readouterr().err
