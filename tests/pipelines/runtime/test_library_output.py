"""What libraries write to descriptor 2 goes to a file of the owner's; what this project says does not."""

import os
import stat
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import ctypes, os, sys, warnings
from pipelines.runtime import console
from pipelines.runtime.library_output import LibraryOutput
output = LibraryOutput("build")
output.divert()
os.write(2, b"from C++\\n")
warnings.warn("from Python")
console.say("build: from us")
print(output.path, flush=True)
"""


def run(more: str, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + more], capture_output=True, text=True, timeout=60, env=environment
    )


def test_only_our_lines_reach_standard_error_and_the_rest_is_in_the_file(tmp_path: Path) -> None:
    done = run("", tmp_path)
    assert (done.returncode, done.stderr) == (0, "build: from us\n")
    file = Path(done.stdout.strip())
    assert file.parent == tmp_path
    assert file.name.startswith("mpc-build-")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "from C++" in file.read_text()
    assert "from Python" in file.read_text()


def test_what_ray_prints_of_its_cluster_is_no_result(tmp_path: Path) -> None:
    code = """
import inspect, threading
import ray._private.worker
from pipelines.runtime.library_output import RAY_ERROR_THREAD
assert RAY_ERROR_THREAD in inspect.getsource(ray._private.worker)
message = {"lines": ["Raylet is terminated"], "pid": "raylet", "is_err": False}
show = lambda: ray._private.worker.print_to_stdstream(message, ignore_prefix=False)
thread = threading.Thread(target=show, name=RAY_ERROR_THREAD)
thread.start()
thread.join()
print("a result")
output.restore()
print("another")
"""
    done = run(code, tmp_path)
    file, *lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "build: from us\n")
    assert lines == ["a result", "another"]
    assert "Raylet is terminated" in Path(file).read_text()


def test_restored_standard_error_shows_a_traceback(tmp_path: Path) -> None:
    done = run("output.restore()\nconsole.say('build: still us')\nraise RuntimeError('a mistake')", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("build: from us\nbuild: still us\nTraceback (most recent call last):")
    assert done.stderr.endswith("RuntimeError: a mistake\n")


def test_a_fatal_signal_still_shows_the_stack(tmp_path: Path) -> None:
    done = run("import signal\nos.kill(os.getpid(), signal.SIGSEGV)", tmp_path)
    assert done.returncode == -11
    assert "Fatal Python error: Segmentation fault" in done.stderr


def test_the_file_goes_when_it_is_discarded(tmp_path: Path) -> None:
    code = "assert not output.is_empty()\noutput.discard()\nos.write(2, b'late')\nassert output.is_empty()"
    done = run(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "build: from us\n")
    assert list(tmp_path.iterdir()) == []


def test_without_a_temporary_folder_nothing_is_hidden(tmp_path: Path) -> None:
    code = SCRIPT.replace("output.divert()", "import tempfile\ntempfile.tempdir = '/no/such'\noutput.divert()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "from C++" in done.stderr
    assert "build: from us" in done.stderr
