"""A Ray cluster of two hosts on one machine: two network namespaces joined by a cable, a Ray node of one core in each.

    with TwoHosts(folder) as hosts:
        hosts.join()                                     # the second host
        subprocess.Popen([*hosts.first, sys.executable, ...], env=hosts.environment)
        hosts.lose()                                     # everything on the second host dies at once

Needs root. Nothing outside the namespaces sees the cluster, and everything in them ends with it.
"""

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

from pipelines.runtime import environment

_RAY = str(Path(sys.executable).with_name("ray"))
_NETWORK = "10.231.77"
_PORT = 6379  # of a namespace of its own


class TwoHosts:
    """The cluster while it is entered; the first host is its head, the second comes and goes."""

    def __init__(self) -> None:
        name = f"mpc{os.getpid()}"
        self._names = (f"{name}a", f"{name}b")
        self.first = ("ip", "netns", "exec", self._names[0])
        """Put before a command that is to run on the first host."""
        address = f"{_NETWORK}.1:{_PORT}"
        alone = {default.name for default in environment.OWN_CLUSTER_DEFAULTS}  # set in this process by `pipelines`
        self.environment = {name: value for name, value in os.environ.items() if name not in alone} | {
            "RAY_ADDRESS": address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "GLOO_SOCKET_IFNAME": "eth0",
        }

    @staticmethod
    def possible() -> bool:
        """Whether this process may make network namespaces."""
        return os.geteuid() == 0 and subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="r", dir="/tmp")  # Ray's sockets need a short path
        a, b = self._names
        try:
            for host in (a, b):
                _run("ip", "netns", "add", host)
            _run("ip", "link", "add", "eth0", "netns", a, "type", "veth", "peer", "name", "eth0", "netns", b)
            for number, host in enumerate((a, b), start=1):
                _run("ip", "-n", host, "addr", "add", f"{_NETWORK}.{number}/24", "dev", "eth0")
                for link in ("lo", "eth0"):
                    _run("ip", "-n", host, "link", "set", link, "up")
            more = ("--head", f"--port={_PORT}", "--include-dashboard=false", f"--temp-dir={self._folder.name}")
            self._start(1, *more)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._names:
            self._kill(host)
            subprocess.run(["ip", "netns", "del", host], capture_output=True)
        self._folder.cleanup()

    def join(self) -> None:
        """Start the second host's Ray."""
        self._start(2, f"--address={_NETWORK}.1:{_PORT}")

    def lose(self) -> None:
        """Kill everything on the second host at once."""
        self._kill(self._names[1])

    def announce(self, seconds: int) -> None:
        """Tell Ray that the second host is taken away in so many seconds, as a provider of machines would."""
        code = "import ray; ray.init(log_to_driver=False); print(*(n['NodeID'] + n['NodeName'] for n in ray.nodes()"
        code += " if n['Alive']))"
        nodes = _run(*self.first, sys.executable, "-c", code, env=self.environment)
        found = re.search(rf"(\w{{56}}){re.escape(_NETWORK)}\.2", nodes)
        assert found, nodes
        reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a drill")
        more = ("--node-id", found[1], "--deadline-remaining-seconds", str(seconds))
        _run(*self.first, _RAY, "drain-node", *reason, *more, env=self.environment)

    def pids(self, host: int) -> list[int]:
        """Processes of the first (1) or second (2) host."""
        return _pids(self._names[host - 1])

    def _start(self, number: int, *more: str) -> None:
        node = ("start", "--num-cpus=1", f"--node-ip-address={_NETWORK}.{number}", "--object-store-memory=200000000")
        _run("ip", "netns", "exec", self._names[number - 1], _RAY, *node, *more, env=self.environment)

    @staticmethod
    def _kill(host: str) -> None:
        while found := _pids(host):
            for process in found:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def _pids(host: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True).stdout
    return [int(word) for word in listed.split() if Path(f"/proc/{word}/cmdline").read_bytes()]


def _run(*command: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout
