"""What libraries write to standard error, in a file of its own: a terminal gets the lines of this project alone.

Ray's core, OpenCV and libtiff write to file descriptor 2 from C++, where no setting of Python's logging reaches them,
so the descriptor itself is led to the file. Lines of this project go to a copy of the descriptor that was there before.
"""

import faulthandler
import os
import sys
import tempfile
import threading
from contextlib import suppress
from typing import Any, TextIO

from pipelines.runtime import console

RAY_ERROR_THREAD = "ray_listen_error_messages"
"""The thread in which Ray prints errors of the cluster, such as a lost raylet, to `sys.stdout`; no setting stops it."""


class _Results:
    """Standard output for results: what Ray's thread prints goes where descriptor 2 leads."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write to standard output; from Ray's thread to descriptor 2."""
        if threading.current_thread().name == RAY_ERROR_THREAD:
            return os.write(2, text.encode(errors="replace"))
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class LibraryOutput:
    """From `divert` to `restore`, or to the end of the process, standard error is a file that only its owner can read.

    It is `<temporary folder>/mpc-<command>-<random>.log`. A fatal signal (SIGSEGV, SIGABRT) still prints Python's stack
    where people look.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self.path = ""
        self.has_details = False
        """Whether `keep` wrote to the file."""
        self._before: int | None = None

    def divert(self) -> None:
        """Lead descriptor 2 to the file. Nothing happens where no file can be made: then nothing is hidden."""
        with suppress(OSError):
            file, self.path = tempfile.mkstemp(prefix=f"mpc-{self._command}-", suffix=".log")  # mode 0600
            sys.stderr.flush()
            self._before = os.dup(2)
            os.dup2(file, 2)
            os.close(file)
            stream = open(self._before, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
            console.write_to(stream)
            sys.stdout = _Results(sys.stdout)
            faulthandler.enable(stream)
            console.debug(f"mpc {self._command}: libraries write to {self.path}")

    def restore(self) -> None:
        """Give descriptor 2 back what it was."""
        if self._before is not None:
            sys.stderr.flush()
            faulthandler.disable()
            console.write_to(None)
            if isinstance(sys.stdout, _Results):
                sys.stdout = sys.stdout.stream
            os.dup2(self._before, 2)
            os.close(self._before)
            self._before = None

    def keep(self, details: str) -> bool:
        """Add the details of a failure to the file, which is made where there is none; whether they are there now."""
        try:
            if not self.path:
                file, self.path = tempfile.mkstemp(prefix=f"mpc-{self._command}-", suffix=".log")
                os.close(file)
            with open(self.path, "a", errors="backslashreplace") as log:
                log.write(details)
        except OSError:
            return False
        self.has_details = True
        return True

    def discard(self) -> None:
        """Delete the file, which may still be written to."""
        if self.path:
            with suppress(OSError):
                os.unlink(self.path)
            self.path = ""

    def is_empty(self) -> bool:
        """Whether no library wrote anything."""
        return not self.path or not os.path.getsize(self.path)
