"""`mpc config`: keys on standard output."""

from typing import Any

from pipelines import cli


def test_the_keys_of_a_command_are_printed_with_default_type_and_meaning(capsys: Any) -> None:
    assert cli.main(["config", "predict"]) == 0
    printed = capsys.readouterr().out
    assert "predict.overlays = true    (true or false)\n    Also draw each map over its image.\n" in printed
    assert "tracking.experiment" in printed
    assert "train.batch_size" not in printed
    assert max(map(len, printed.splitlines())) <= 120


def test_all_keys_are_printed_without_a_command(capsys: Any) -> None:
    assert cli.main(["config"]) == 0
    printed = capsys.readouterr().out
    for name in ("seed", "build.sources.N.layout", "train.batch_size", "register.alias"):
        assert f"\n{name} " in f"\n{printed}"


def test_a_command_that_reads_no_config_is_refused(capsys: Any) -> None:
    for wrong in ("inspect", "biuld"):
        assert cli.main(["config", wrong]) == 2
        assert f"{wrong!r} is no command that reads a config; name one of build, " in capsys.readouterr().err
