"""The lock of a data folder: servers that keep their data in one are started once."""

import fcntl
import os
import time
from pathlib import Path


def claim(data: Path, seconds: float) -> int:
    """Lock the folder and return the open file of the lock, which all servers inherit: it is free when all have ended.
    Those of a script that was killed end by themselves, so this waits; SystemExit where one has not after `seconds`."""
    data.mkdir(parents=True, exist_ok=True)
    lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise SystemExit(f"{data} is served already; end that server, or give another --data folder") from None
            time.sleep(0.1)
        else:
            return lock
