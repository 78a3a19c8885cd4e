"""Signals that end a command, and standard streams that nobody holds."""

import signal
import subprocess
import sys
import threading

import pytest

from pipelines.runtime import signals


def run(code: str, shell: str = "") -> "subprocess.CompletedProcess[str]":
    """A script in a process of its own, whose streams a shell may close."""
    command = ["sh", "-c", f'"$0" -c "$1" {shell}', sys.executable, code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_sigterm_is_an_interrupt_inside_the_block_only() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals.Interruption("build") as interruption:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert interruption.report() == 130
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interruption_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    interruption = signals.Interruption("tune")
    assert (interruption.report(), interruption.report()) == (130, 130)
    assert capsys.readouterr().err == "mpc tune: interrupted; the same command goes on from here\n"


def test_a_main_thread_that_handles_no_signal_is_ended_once_ray_is_lost() -> None:
    code = """
import ctypes, os, signal, threading, time
from pipelines.runtime import signals
signals.ask_when_terminated(lambda seconds: True)
with signals.Interruption("build", lambda: print("last act", flush=True)):
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    signal.signal(signal.SIGTERM, lambda *_: time.sleep(30))  # as a call into Ray that does not return
    time.sleep(30)
"""
    done = run(code)
    assert done.returncode == 130
    assert done.stderr == "mpc build: interrupted; the same command goes on from here\n"
    assert done.stdout == "last act\n"


def test_a_closed_stream_becomes_the_null_device() -> None:
    code = "from pipelines.runtime import signals, console\nimport os\nsignals.open_streams()\nconsole.say('a')\n"
    code += "file = open('/dev/zero')\nassert file.fileno() > 2\nprint('done')"
    done = run(code, "2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_output_that_nobody_reads_is_noticed() -> None:
    code = "import os, time\nfrom pipelines.runtime import signals\nassert not signals.reader_is_gone()\n"
    code += "reading, writing = os.pipe()\nos.dup2(writing, 1)\nos.close(writing)\nos.close(reading)\n"
    code += "assert signals.reader_is_gone()\nprint('into the void')"
    assert run(code).returncode == 0


def test_the_first_ctrl_c_is_noted_and_the_second_one_raised(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with signals.first_interrupt_noted("pretrain: interrupted") as is_noted:
        assert not is_noted()
        signal.raise_signal(signal.SIGINT)
        for thread in threading.enumerate():
            if thread.name == "interrupted":
                thread.join()
        assert is_noted()
        assert capsys.readouterr().err == "pretrain: interrupted\n"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_is_noted_too_and_what_is_ignored_stays_ignored() -> None:
    """As a shell starts a job in the background: SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.Interruption("pretrain"), signals.first_interrupt_noted("pretrain: interrupted") as is_noted:
            signal.raise_signal(signal.SIGINT)
            assert not is_noted()
            signal.raise_signal(signal.SIGTERM)
            for thread in threading.enumerate():
                if thread.name == "interrupted":
                    thread.join()
            assert is_noted()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_no_ctrl_c_is_noted() -> None:
    before, found = signal.getsignal(signal.SIGINT), list[bool]()

    def look() -> None:
        with signals.first_interrupt_noted("pretrain: interrupted") as is_noted:
            found.extend([is_noted(), signal.getsignal(signal.SIGINT) is before])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [False, True]
