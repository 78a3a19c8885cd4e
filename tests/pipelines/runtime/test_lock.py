"""Holders that live, die and go on, on a clock that does not wait; real processes and a real file lock."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import FakeClock

from pipelines.runtime import lock
from pipelines.runtime.lock import HolderId


def seen_at(fake: FakeClock, *states: tuple[float, str | None]) -> Callable[[], str | None]:
    """What is observed: each state from its second on."""
    return lambda: [state for since, state in states if since <= fake.seconds][-1]


def wait(fake: FakeClock, observe: Callable[[], str | None], on_change: Callable[[str], None]) -> str | None:
    return lock.wait_for_release(observe, on_change, timeout=10.0, pause=1.0, clock=fake.clock)


def test_a_lock_that_is_free_is_not_waited_for() -> None:
    fake = FakeClock()
    assert wait(fake, seen_at(fake, (0, None)), pytest.fail) is None
    assert fake.pauses == []


def test_a_holder_that_does_not_change_is_dead_after_the_patience() -> None:
    fake = FakeClock()
    assert wait(fake, seen_at(fake, (0, "a")), pytest.fail) == "a"
    assert 10 <= fake.seconds <= 12


def test_each_change_is_told_and_starts_the_patience_anew() -> None:
    fake, changes = FakeClock(), list[str]()
    assert wait(fake, seen_at(fake, (0, "a"), (9, "b"), (18, "c")), changes.append) == "c"
    assert changes == ["b", "c"]
    assert 28 <= fake.seconds <= 30


def test_the_end_is_a_release_and_no_change() -> None:
    fake = FakeClock()
    assert wait(fake, seen_at(fake, (0, "a"), (5, None)), pytest.fail) is None
    assert fake.seconds == 5


def test_a_change_may_be_refused() -> None:
    fake = FakeClock()

    def refuse(state: str) -> None:
        raise RuntimeError(state)

    with pytest.raises(RuntimeError, match="b"):
        wait(fake, seen_at(fake, (0, "a"), (3, "b")), refuse)


def test_only_a_process_of_this_machine_is_known_to_be_dead() -> None:
    here = lock.holder_id()
    assert here.process == os.getpid()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not lock.is_dead(here)
    assert lock.is_dead(HolderId(here.machine, ended.pid))
    assert not lock.is_dead(HolderId("another machine", ended.pid))
    assert not lock.is_dead(HolderId(here.machine, 1))  # it lives, and may be another user's


def test_a_file_is_held_by_one_process_until_it_dies(tmp_path: Path) -> None:
    code = """
import sys, time
from pipelines.runtime import lock
with open(sys.argv[1], "w") as file, lock.held_file(file):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "x.lock")]
    first = subprocess.Popen([*command, "600"], stdout=subprocess.PIPE, text=True)
    assert first.stdout
    assert first.stdout.readline() == "held\n"
    second = subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=1.5)
    first.kill()
    first.wait()
    assert second.communicate(timeout=60)[0] == "held\n"
