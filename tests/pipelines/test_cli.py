"""The command line as people and job schedulers meet it: verbs, exit codes, one clear line on bad input."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpc_model.errors import DataError, InfrastructureError, MPCError
from pipelines import cli
from pipelines.commands import COMMANDS
from pipelines.runtime import console

MPC = Path(sys.executable).with_name("mpc")


def test_the_verbs_and_their_arguments_are_frozen() -> None:
    """Scripts and manifests call these: changing them breaks users."""
    jobs = ["build", "pretrain", "finetune", "adapt", "tune", "evaluate", "register", "promote", "predict", "demo"]
    assert set(COMMANDS) == {*jobs, "models", "compare", "inspect", "view", "bench", "init", "config", "completion"}
    for verb in jobs:
        parsed = cli.parser().parse_args([verb, "--config", "x.yaml", "a.b=1", "c=2"])
        assert (parsed.verb, parsed.config, parsed.overrides) == (verb, "x.yaml", ["a.b=1", "c=2"])
    assert cli.parser().parse_args(["demo"]).config == "demo"
    told = cli.parser().parse_args(["promote", "--config", "x.yaml", "--rollback", "--dry-run"])
    assert (told.rollback, told.dry_run) == (True, True)
    told = cli.parser().parse_args(["models", "--config", "x.yaml", "--json"])
    assert told.json is True
    told = cli.parser().parse_args(["inspect", "s3://b/d", "--verify", "--against", "e", "--page", "p.html"])
    assert (told.uri, told.verify, told.against, told.page) == ("s3://b/d", True, "e", "p.html")
    told = cli.parser().parse_args(["view", "s3://b/e", "--no-browser", "--port", "8000"])
    assert (told.uri, told.no_browser, told.port) == ("s3://b/e", True, "8000")
    told = cli._parsed(["compare", "a", "b", "c=1", "--config", "x.yaml", "d=2"])
    assert (told.a, told.b, told.overrides, told.config) == ("a", "b", ["c=1", "d=2"], "x.yaml")
    assert cli._parsed(["compare", "a", "b"]).config is None
    told = cli.parser().parse_args(["bench", "--group", "build", "--output", "b.json", "--quick"])
    assert (told.group, told.output, told.quick) == ("build", "b.json", True)


def test_overrides_may_stand_anywhere(capsys: Any) -> None:
    told = cli._parsed(["promote", "a.b=1", "--config", "x.yaml", "c=2", "--dry-run", "d=3", "e=4"])
    assert (told.config, told.dry_run, told.overrides) == ("x.yaml", True, ["a.b=1", "c=2", "d=3", "e=4"])
    for wrong in (["promote", "--config", "x.yaml", "--bogus"], ["inspect", "a", "b=1"]):
        with pytest.raises(SystemExit) as ended:
            cli._parsed(wrong)
        assert ended.value.code == 2
        assert "unrecognized arguments" in capsys.readouterr().err


def test_help_names_every_verb_quickly() -> None:
    done = subprocess.run([MPC, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    for verb, command in COMMANDS.items():
        assert f"{verb} " in done.stdout
        assert command.summary.split(",")[0].split()[-1] in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["build", "--config", "demo", "train.batch_sise=8"],
            "unknown key 'train.batch_sise': did you mean 'batch_size'?",
        ),
        (["build", "--config", "none.yaml"], "no config at 'none.yaml'"),
        (["build", "--config", "demo", "build.sources.0.location=/no/such"], "nothing found at /no/such"),
        (["inspect", "/no/such"], "no pixel dataset at /no/such"),
        (["pretrain", "--config", "demo", "train.dataset=/no/such"], "no pixel dataset at /no/such"),
        (["finetune", "--config", "demo", "finetune.encoder=/no/such"], "no model directory at /no/such"),
        (["evaluate", "--config", "demo", "evaluate.dataset=/no/such"], "no pixel dataset at /no/such"),
        (["register", "--config", "demo", "register.model=/no/such"], "/no/such"),
        (["promote", "--config", "demo"], "mpc register"),
        (["predict", "--config", "demo", "predict.input=/no/such"], "nothing found at /no/such"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"mpc {arguments[0]}: ")
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_without_arguments_the_usage_is_shown() -> None:
    done = subprocess.run([MPC], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "usage: mpc" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("x"), 2), (InfrastructureError("x"), 1), (MPCError("x"), 1), (KeyboardInterrupt(), 130)],
)
def test_exit_codes_tell_whose_fault_it_was(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(config: object) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipelines.build.build", fails)
    assert cli.main(["build", "--config", "demo"]) == code


def test_what_a_task_raised_is_found_below_what_it_was_wrapped_in() -> None:
    try:
        try:
            raise DataError("inner", "empty_mask")
        except DataError as inner:
            raise RuntimeError("wrapped") from inner
    except RuntimeError as outer:
        found = cli._ours(outer)
    assert isinstance(found, DataError)
    assert (str(found), found.reason) == ("inner", "empty_mask")
    assert cli._ours(RuntimeError("ours it is not")) is None


@pytest.mark.parametrize(
    "error", [RecursionError("too deep"), MemoryError(), OSError(28, "No space left", "/x"), SystemExit(3)]
)
@pytest.mark.parametrize("options", [[], ["-v"]])
def test_whatever_a_verb_raises_is_one_line_and_a_file_that_others_cannot_read(
    error: BaseException, options: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    def fails(config: object) -> None:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("pipelines.build.build", fails)
    monkeypatch.setenv("MPC_LOG", "info")
    assert cli.main(["build", "--config", "demo", *options]) == 1
    said = capsys.readouterr().err
    first, *more = said.splitlines()
    (file,) = tmp_path.iterdir()
    assert first.startswith("mpc build: ")
    assert first.endswith(f"; details are in {file}")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().startswith("Traceback (most recent call last):")
    assert bool(more) == bool(options)
    assert ("Traceback" in said) == bool(options)
    monkeypatch.undo()
    console.configure()


def test_where_no_file_can_be_made_the_traceback_follows_the_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    def fails(config: object) -> None:
        raise RuntimeError("a mistake of s3://KEY:HIDDEN@bucket")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    monkeypatch.setattr("pipelines.build.build", fails)
    assert cli.main(["build", "--config", "demo"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("mpc build: RuntimeError: a mistake of s3://***@bucket\nmpc build: Traceback")
    assert "HIDDEN" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("arguments", [["--help"], ["completion", "bash"]])
def test_results_that_cannot_be_written_are_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([MPC, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert re.fullmatch(r"mpc[a-z ]*: standard output cannot be written: No space left on device\n", done.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_lines_that_cannot_be_written_do_not_end_the_command() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([MPC, "inspect", "/no/such"], stderr=full, timeout=60)
    assert done.returncode == 2


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    done = subprocess.run([MPC, "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"mpc {version('mpc-localizer')}\n")


def test_levels_stand_before_the_command_and_after_it() -> None:
    for arguments, level in (
        (["-q", "build", "--config", "x"], "warning"),
        (["build", "--config", "x", "--quiet"], "warning"),
        (["promote", "-v", "--config", "x", "a=1"], "debug"),
        (["build", "--config", "x"], None),
    ):
        assert cli._parsed(arguments).level == level


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["build", "--help"]])
def test_help_imports_nothing_that_takes_time(arguments: list[str]) -> None:
    code = "import sys\nfrom pipelines import cli\ntry:\n    cli.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
    code += "print(*(name for name in ('numpy', 'cv2', 'pydantic', 'yaml', 'torch', 'ray') if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == ""


def test_a_level_that_does_not_exist_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("MPC_LOG", "loud")
    assert cli.main(["build", "--config", "demo"]) == 2
    assert capsys.readouterr().err == "mpc build: MPC_LOG is 'loud'; it may be debug, info or warning\n"


@pytest.mark.parametrize("arguments", [["nonsense"], [], ["build"], ["build", "--config", "demo", "--bogus"]])
def test_arguments_are_refused_in_one_json_line_where_lines_are_for_machines(arguments: list[str]) -> None:
    environment = {**os.environ, "MPC_LOG_FORMAT": "json"}
    done = subprocess.run([MPC, *arguments], capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["level"] == "error"
    assert " arguments" in line or "invalid choice" in line


FAILING = """
import os, sys
import pipelines.build
from mpc_model.errors import InfrastructureError
from pipelines import cli
def broken(config):
    os.write(2, {written!r})
    raise {error}
pipelines.build.build = broken
sys.exit(cli.main())
"""


@pytest.mark.parametrize("error", ["RuntimeError('a mistake')", "InfrastructureError('no answer')"])
@pytest.mark.parametrize("written", [b"from C++", b""])
def test_a_failure_names_what_libraries_wrote_and_leaves_nothing_else(
    error: str, written: bytes, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", FAILING.format(error=error, written=written), "-q", "build", "--config", "demo"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 1
    files = [file for file in tmp_path.iterdir() if file.name.startswith("mpc-")]
    if "InfrastructureError" in error:
        assert [file.read_bytes() for file in files] == ([written] if written else [])
    else:
        (file,) = files
        assert file.read_bytes().startswith(written + b"Traceback (most recent call last):")
        assert done.stderr == f"mpc build: RuntimeError: a mistake; details are in {file}\n"
    assert [str(file) in done.stderr for file in files] == [True] * len(files)
