#!/usr/bin/env python3
"""A real S3 server on this machine, for development and tests: OpenStack Swift in a virtual environment of its own.

    infra/s3/serve.py --data s3-data        # runs until Ctrl-C, prints the AWS variables that reach it
    infra/s3/serve.py --install             # only makes the environment

Signatures, conditional puts, multipart uploads and listings are the real thing. The credentials are fixed and the
server listens on loopback only: nothing of value belongs in it. Objects stay in the data folder between starts. Needs
Linux, Python 3.11 or newer, pip for the first start, and a data folder whose filesystem keeps user xattrs.
"""

import argparse
import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

sys.path.append(str(Path(__file__).resolve().parents[1]))  # this is a script: its folder alone is there
from folder_lock import claim

ACCESS_KEY, SECRET_KEY, REGION = "mpc:tester", "secret-of-the-local-server", "us-east-1"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv-s3"
SERVERS = ("account", "container", "object", "proxy")
START_SECONDS, STOP_SECONDS = 180, 10

_COMMON = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {etc}
devices = {devices}
mount_check = false
disable_fallocate = true
log_level = WARNING
log_name = mpc-s3-{server}
"""
_STORAGE = """
[pipeline:main]
pipeline = healthcheck {filters} {server}-server
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:atomic_puts]
paste.filter_factory = atomic_puts:filter_factory
[app:{server}-server]
use = egg:swift#{server}
"""
_PROXY = """
[pipeline:main]
pipeline = {filters} proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret} .admin
[filter:s3api]
use = egg:swift#s3api
location = {region}
s3_acl = false
auth_pipeline_check = false
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
"""
_FILTERS = (
    "catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth copy slo dlo versioned_writes symlink"
)
_RINGS = """
import sys
from swift.common.ring import RingBuilder
for ring in sys.argv[1:]:
    path, _, port = ring.rpartition("=")
    builder = RingBuilder(4, 1, 0)
    builder.add_dev(dict(id=0, region=1, zone=1, ip="127.0.0.1", port=int(port), device="d1", weight=1))
    builder.rebalance()
    builder.get_ring().save(path)
"""


def install(environment: Path) -> None:
    """Make the virtual environment with the pinned packages, unless it is there; CalledProcessError when pip fails."""
    pinned = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = environment / ".installed"
    if stamp.is_file() and stamp.read_text() == pinned:
        return
    print(f"Installing the S3 server into {environment}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [str(environment / "bin" / "pip"), "install", "-qq", "--disable-pip-version-check", "--only-binary=:all:"]
    subprocess.run([*pip, "-r", str(REQUIREMENTS)], check=True, stdout=sys.stderr)
    stamp.write_text(pinned)


def configure(data: Path, environment: Path, port: int) -> dict[str, int]:
    """Write rings and settings below the data folder; returns the port of each server.

    One device holds every partition, so the objects of an earlier start are found again whatever the ports.
    """
    etc, devices = data / "etc", data / "devices"
    etc.mkdir(parents=True, exist_ok=True)
    (devices / "d1").mkdir(parents=True, exist_ok=True)
    _needs_xattrs(devices)
    with ExitStack() as stack:  # all held at once, so that the system gives four different ones
        sockets = [stack.enter_context(socket.socket()) for _ in SERVERS]
        for server, probe in zip(SERVERS, sockets, strict=True):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port if server == "proxy" else 0))
        ports = {server: probe.getsockname()[1] for server, probe in zip(SERVERS, sockets, strict=True)}
    (etc / "swift.conf").write_text("[swift-hash]\nswift_hash_path_prefix = mpc\nswift_hash_path_suffix = mpc\n")
    for server in SERVERS:
        text = _COMMON.format(port=ports[server], etc=etc, devices=devices, server=server)
        if server == "proxy":
            text += _PROXY.format(user=ACCESS_KEY.replace(":", "_"), secret=SECRET_KEY, region=REGION, filters=_FILTERS)
            text += "".join(
                f"[filter:{name}]\nuse = egg:swift#{name}\n"
                for name in _FILTERS.split()
                if f"[filter:{name}]" not in text
            )
        else:
            text += _STORAGE.format(server=server, filters="atomic_puts" if server == "object" else "")
        (etc / f"{server}.conf").write_text(text)
    rings = [f"{etc / server}.ring.gz={ports[server]}" for server in SERVERS if server != "proxy"]
    subprocess.run([str(environment / "bin" / "python"), "-c", _RINGS, *rings], check=True)
    return ports


def _needs_xattrs(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        try:
            os.setxattr(file.name, "user.mpc", b"1")
        except OSError as error:
            raise SystemExit(
                f"{folder} keeps no user xattrs ({error.strerror}); give a --data folder on a disk"
            ) from None


def serve(data: Path, environment: Path, port: int) -> None:
    """Run the four servers until a signal, or until one of them ends by itself (SystemExit). They end with this
    process however it ends: the system sends them SIGTERM."""
    lock = claim(data, STOP_SECONDS)
    ports = configure(data, environment, port)
    children: dict[str, subprocess.Popen[bytes]] = {}
    surroundings = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent)}  # where atomic_puts is
    try:
        for server in SERVERS:
            script, settings = environment / "bin" / f"swift-{server}-server", data / "etc" / f"{server}.conf"
            with open(data / f"{server}.log", "ab") as log:
                children[server] = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", script, settings, "--verbose"],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    env=surroundings,
                    pass_fds=[lock],
                )
        for server in SERVERS:
            _wait_for(server, ports[server], children[server], data / f"{server}.log")
        print("# S3 server ready; stop it with Ctrl-C. To use it:")
        for name, value in variables(ports["proxy"]).items():
            print(f"export {name}={value}")
        sys.stdout.flush()
        while all(child.poll() is None for child in children.values()):
            time.sleep(0.2)
        ended = [server for server, child in children.items() if child.poll() is not None]
        raise SystemExit(f"the {ended[0]} server ended by itself; see {data / ended[0]}.log")
    finally:
        _stop(list(children.values()))


def variables(port: int) -> dict[str, str]:
    """What a client sets to reach the server."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _wait_for(server: str, port: int, child: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"the {server} server did not start; see {log}")


def _stop(children: "list[subprocess.Popen[bytes]]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave a child behind
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description="A real S3 server on loopback, for development and tests.")
    parser.add_argument("--data", type=Path, help="folder of the objects, settings and logs")
    parser.add_argument("--port", type=int, default=0, help="port of the S3 endpoint (a free one)")
    parser.add_argument("--venv", type=Path, default=ENVIRONMENT, help="folder of the server's environment")
    parser.add_argument("--install", action="store_true", help="only install the server")
    options = parser.parse_args()
    if not options.install and options.data is None:
        parser.error("--data is needed: the folder of the objects")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        install(options.venv.absolute())
        if not options.install:
            serve(options.data.absolute(), options.venv.absolute(), options.port)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"the S3 server could not be set up: {error}") from None
    except OSError as error:
        raise SystemExit(f"the S3 server cannot run: {error}") from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


if __name__ == "__main__":
    main()
