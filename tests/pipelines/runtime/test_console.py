"""What a job says: component, level, time and rank of every line, for people and for machines."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from mpc_model.errors import UserError
from pipelines.runtime import console


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Level, form and relay of this process, as the other tests have them."""
    yield
    console._handler.relay, console._rank = None, None
    console.write_to(None)
    with pytest.MonkeyPatch.context() as without:
        without.delenv("MPC_LOG", raising=False)
        without.delenv("MPC_LOG_FORMAT", raising=False)
        console.configure()


def test_plain_lines_are_what_was_said_and_warnings_say_that_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("build: reusing the finished dataset")
    console.say("\n== build")
    console.warn("storage: s3://b/k does not answer")
    console.fail("mpc build: unknown key 'a'")
    console.debug("build: not shown")
    assert capsys.readouterr().err == (
        "build: reusing the finished dataset\n\n== build\nstorage: warning: s3://b/k does not answer\n"
        "mpc build: unknown key 'a'\n"
    )


def test_a_name_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("predict: a\r\x1b[2Jb\u202ec\u202fd\nnext line")
    assert capsys.readouterr().err == "predict: a\\x0d\\x1b[2Jb\\u202ec\\u202fd\nnext line\n"


def test_json_lines_have_time_level_component_rank_and_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPC_LOG_FORMAT", "json")
    monkeypatch.setenv("MPC_LOG", "debug")
    console.configure()
    console.warn("storage: slow\nvery")
    console.fail("mpc build: 100% wrong")
    console.debug("no component")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for line in lines:
        assert line["time"].endswith("Z")
        assert abs(datetime.fromisoformat(line.pop("time")) - datetime.now(UTC)) < timedelta(minutes=1)
    assert lines == [
        {"level": "warning", "component": "storage", "rank": None, "message": "slow\nvery"},
        {"level": "error", "component": "build", "rank": None, "message": "100% wrong"},
        {"level": "debug", "component": "mpc", "rank": None, "message": "no component"},
    ]


@pytest.mark.parametrize(("level", "shown"), [("debug", "dswf"), ("info", "swf"), ("warning", "wf")])
def test_the_level_chooses_what_is_shown(
    level: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPC_LOG", level)
    console.configure()
    for letter, call in zip("dswf", (console.debug, console.say, console.warn, console.fail), strict=True):
        call(letter)
    assert "".join(line[-1] for line in capsys.readouterr().err.splitlines()) == shown
    assert console.is_shown("info") == ("s" in shown)


@pytest.mark.parametrize(("name", "value"), [("MPC_LOG", "loud"), ("MPC_LOG_FORMAT", "xml")])
def test_a_value_that_a_variable_may_not_have_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name} is '{value}'; it may be"):
        console.configure()


def test_the_line_of_a_worker_keeps_its_level_rank_and_time_on_its_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[console.Line] = []
    console.relay(lines.append, rank=3)
    console.warn("pretrain: a checkpoint is damaged")
    progress = console.Progress("pretrain", 1, "steps", every_seconds=0)
    progress.advance()
    assert capsys.readouterr().err == ""
    assert [(line.level, line.rank, line.component) for line in lines] == [
        (logging.WARNING, 3, "pretrain"),
        (logging.INFO, 3, "pretrain"),
    ]
    console._handler.relay, console._rank = None, None
    monkeypatch.setenv("MPC_LOG_FORMAT", "json")
    console.configure()
    console.show(lines[0]._replace(created=0.5))
    assert json.loads(capsys.readouterr().err) == {
        "time": "1970-01-01T00:00:00.500Z",
        "level": "warning",
        "component": "pretrain",
        "rank": 3,
        "message": "a checkpoint is damaged",
    }


def test_loggers_of_the_standard_library_below_mpc_are_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("mpc.plugin").info("%d files", 3)
    assert capsys.readouterr().err == "plugin: 3 files\n"


def test_a_root_handler_of_a_library_says_nothing_twice() -> None:
    code = "import logging\nfrom pipelines.runtime import console\nlogging.basicConfig()\nconsole.say('build: once')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "build: once\n"


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0s"), (75, "1m15s"), (3725, "1h02m")])
def test_durations_are_short(seconds: float, words: str) -> None:
    assert console.duration(seconds) == words
