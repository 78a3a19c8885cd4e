#!/usr/bin/env python3
"""An MLflow server for a team, on one machine: runs and models in PostgreSQL, artifacts in object storage.

    infra/tracking/serve.py --data tracking-data --port 5000      # runs until Ctrl-C, prints `tracking.uri`

Three real processes: Debian's PostgreSQL, the S3 server of `infra/s3/serve.py` (none where AWS_ENDPOINT_URL or
`--bucket` name another), and `mlflow server`, which passes artifacts on, so that its clients need no rights in the
bucket. Everything listens on loopback unless `--host` says otherwise (MLflow alone). Run it with the Python that has
the project's `server` extra.
"""

import argparse
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

sys.path.append(str(Path(__file__).resolve().parents[1]))  # this is a script: its folder alone is there
from folder_lock import claim

S3 = Path(__file__).resolve().parents[1] / "s3" / "serve.py"
BUCKET = "s3://mlflow"
START_SECONDS, STOP_SECONDS = 120, 20
DATABASE, OWNER = "mlflow", "postgres"
"""The database; and the account that PostgreSQL runs as when this is run by root, whom it refuses."""


def binaries() -> Path:
    """The folder of PostgreSQL's server programs, of the newest version."""
    found = shutil.which("postgres")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda place: int(place.parts[-3]))
    if places:
        return places[-1].parent
    if found:
        return Path(found).resolve().parent
    raise SystemExit("PostgreSQL's server is not installed: apt-get install postgresql")


def free_port(host: str = "127.0.0.1", port: int = 0) -> int:
    """That port, or any that is free; SystemExit where another process has it."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SystemExit(f"port {port} of {host} cannot be used: {error.strerror}; choose another --port") from None
        return int(probe.getsockname()[1])


class Servers:
    """What was started, in order; stopped in the opposite one."""

    def __init__(self, data: Path, lock: int) -> None:
        self.data = data
        self.lock = lock
        self.running: list[tuple[str, subprocess.Popen[bytes], signal.Signals]] = []

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        stop: signal.Signals = signal.SIGTERM,
        variables: dict[str, str] | None = None,
        **how: object,
    ) -> "subprocess.Popen[bytes]":
        # A session of its own: Ctrl-C reaches this script alone, which stops the others one after the other. Where it
        # cannot, since it was killed, the system sends them the same signal.
        command = ["setpriv", "--pdeathsig", stop.name.removeprefix("SIG"), *command]
        with open(self.data / f"{name}.log", "ab") as log:
            options = {"stdout": log, "stderr": log, "stdin": subprocess.DEVNULL, "start_new_session": True, **how}
            options |= {"pass_fds": [self.lock]}
            child = subprocess.Popen(list(map(str, command)), env={**os.environ, **(variables or {})}, **options)
        self.running.append((name, child, stop))
        return child

    def wait_for(self, name: str, ready: Callable[[], bool]) -> None:
        child = next(one for called, one, _ in self.running if called == name)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and child.poll() is None:
            if ready():
                return
            time.sleep(0.05)
        raise SystemExit(f"{name} did not start; see {self.data / name}.log")

    def watch(self) -> None:
        """Until a signal, or until one ends by itself (SystemExit)."""
        while True:
            for name, child, _ in self.running:
                if child.poll() is not None:
                    raise SystemExit(f"{name} ended by itself; see {self.data / name}.log")
            time.sleep(0.2)

    def stop(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second one must not leave a child behind
        for _, child, how in reversed(self.running):
            child.send_signal(how)
            with suppress(subprocess.TimeoutExpired):
                child.wait(STOP_SECONDS)
            _kill_group(child)


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    """End what a server left of its own children, too."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def start_postgres(servers: Servers) -> str:
    """Make the database where it is new, start it, and return the address that MLflow gets; the password stays in a
    file that only its owner reads."""
    folder, tools, port = servers.data / "postgres", binaries(), free_port()
    secret = servers.data / "postgres.password"
    account: dict[str, object] = {}
    if os.geteuid() == 0:
        owner = pwd.getpwnam(OWNER)
        account = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    if not (folder / "PG_VERSION").exists():
        _make_database(folder, secret, account, servers.lock)
    elif not (folder / "global" / "pg_control").exists():
        raise SystemExit(f"{folder} was left half made; delete it and {secret}, nothing is in it yet, and start again")
    password = secret.read_text() if secret.exists() else ""
    if not password:
        raise SystemExit(f"{secret} is lost, and {folder} opens with no other password; put it back from a backup")
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
    command = [tools / "postgres", "-D", folder, *(f"--{name}={value}" for name, value in settings.items())]
    servers.start("postgres", command, signal.SIGINT, cwd="/", **account)  # SIGINT is its fast shutdown
    servers.wait_for("postgres", lambda: _accepts(tools, port))
    ask = {"PGPASSWORD": password, "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": DATABASE}
    made = subprocess.run([tools / "createdb", DATABASE], capture_output=True, text=True, env={**os.environ, **ask})
    if made.returncode and "already exists" not in made.stderr:
        raise SystemExit(f"the database could not be made: {made.stderr.strip()}")
    return f"postgresql+pg8000://{DATABASE}:{password}@127.0.0.1:{port}/{DATABASE}"


def _make_database(folder: Path, secret: Path, account: dict[str, object], lock: int) -> None:
    """Make it with a new password. Each appears whole or not at all, so that a start that is killed blocks no other."""
    new_folder, new_secret = folder.with_name("postgres.new"), secret.with_name("postgres.password.new")
    shutil.rmtree(new_folder, ignore_errors=True)
    new_secret.unlink(missing_ok=True)
    new_folder.mkdir()
    new_secret.touch(mode=0o600)
    new_secret.write_text(secrets.token_hex(16))
    if account:
        for place in (new_folder, new_secret):
            shutil.chown(place, OWNER, pwd.getpwnam(OWNER).pw_gid)
        if subprocess.run(["test", "-w", new_folder], cwd="/", **account).returncode:
            raise SystemExit(f"the account {OWNER} cannot reach {folder.parent}; give a --data folder that it can")
    command = ["setpriv", "--pdeathsig", "KILL", binaries() / "initdb", "-D", new_folder, "-U", DATABASE]
    command += [f"--pwfile={new_secret}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]
    how = {"cwd": "/", "pass_fds": [lock], **account}
    made = subprocess.run(list(map(str, command)), capture_output=True, text=True, **how)
    if made.returncode:
        raise SystemExit(f"the database could not be made: {made.stderr.strip()}")
    new_secret.replace(secret)
    new_folder.replace(folder)


def _accepts(tools: Path, port: int) -> bool:
    return not subprocess.run([tools / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode


def start_s3(servers: Servers, bucket: str) -> dict[str, str]:
    """The variables that reach the S3 server that is started here; none where another one was named."""
    if "AWS_ENDPOINT_URL" in os.environ or bucket != BUCKET:
        return {}
    child = servers.start("s3", [sys.executable, S3, "--data", servers.data / "s3"], stdout=subprocess.PIPE)
    assert child.stdout
    found: dict[str, str] = {}
    for line in map(bytes.decode, child.stdout):
        name, _, value = line.removeprefix("export ").strip().partition("=")
        if line.startswith("export "):
            found[name] = value
        if name == "AWS_EC2_METADATA_DISABLED":
            return found
    raise SystemExit(f"s3 did not start; see {servers.data / 's3.log'}")


def make_bucket(bucket: str) -> None:
    """Make it where it is new; SystemExit where it cannot be used."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    store, name = boto3.client("s3"), bucket.removeprefix("s3://").partition("/")[0]
    try:
        try:
            store.head_bucket(Bucket=name)
        except ClientError as error:
            if error.response["Error"]["Code"] != "404":
                raise
            store.create_bucket(Bucket=name)
    except (BotoCoreError, ClientError) as error:
        raise SystemExit(f"the bucket {bucket} cannot be used: {error}") from None


def serve(data: Path, host: str, port: int, bucket: str) -> None:
    """Run all of it until a signal, or until one part ends by itself (SystemExit)."""
    servers = Servers(data, claim(data, STOP_SECONDS))
    port = free_port(host, port)
    try:
        database = start_postgres(servers)
        os.environ |= start_s3(servers, bucket)
        make_bucket(bucket)
        command = [Path(sys.executable).with_name("mlflow"), "server", "--host", host, "--port", str(port)]
        command += ["--workers", "2", "--serve-artifacts", "--artifacts-destination", bucket]
        # The address with the password goes by a variable: a command line can be read by everybody.
        variables = {"MLFLOW_BACKEND_STORE_URI": database, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        variables |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        servers.start("mlflow", command, variables=variables)
        servers.wait_for("mlflow", lambda: _answers(port))
        print("# MLflow server ready; stop it with Ctrl-C. To use it:")
        print(f"tracking.uri=http://{'127.0.0.1' if host in ('127.0.0.1', '0.0.0.0') else host}:{port}")
        sys.stdout.flush()
        servers.watch()
    finally:
        servers.stop()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
    except OSError:
        return False
    return True


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description="An MLflow server on PostgreSQL, with artifacts in object storage.")
    parser.add_argument("--data", type=Path, required=True, help="folder of database, objects and logs")
    parser.add_argument("--host", default="127.0.0.1", help="address that MLflow listens on (this machine alone)")
    parser.add_argument("--port", type=int, default=0, help="port of MLflow (a free one)")
    parser.add_argument("--bucket", default=BUCKET, help=f"where artifacts go ({BUCKET})")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        serve(options.data.absolute(), options.host, options.port, options.bucket)
    except OSError as error:
        raise SystemExit(f"the MLflow server cannot run: {error}") from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


if __name__ == "__main__":
    main()
