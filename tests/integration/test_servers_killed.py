"""The scripts of `infra/` that run servers, killed without a chance to stop them: the next start finds everything."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import mlflow
import psutil
import pytest

pytestmark = pytest.mark.slow

INFRA = Path(__file__).parents[2] / "infra"
S3, TRACKING = INFRA / "s3" / "serve.py", INFRA / "tracking" / "serve.py"
PATIENCE = 60


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder that PostgreSQL's own account can reach; nothing that works in it outlives the test."""
    folder = Path(tempfile.mkdtemp(prefix="mpc-killed-"))
    folder.chmod(0o755)
    yield folder
    for process in at_work(folder):
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def at_work(data: Path) -> list[psutil.Process]:
    """Processes that name the folder in their command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(data) in " ".join(process.cmdline()):
                found.append(process)
    return found


def started(script: Path, data: Path, *more: str, **variables: str) -> "subprocess.Popen[str]":
    command = [sys.executable, script, "--data", data, *more]
    environment = {**os.environ, **variables}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ready(server: "subprocess.Popen[str]") -> str:
    """The line after the one that says that it is ready."""
    assert server.stdout
    assert server.stderr
    assert "ready" in server.stdout.readline(), server.stderr.read()
    return server.stdout.readline().strip()


def killed(server: "subprocess.Popen[str]") -> None:
    server.kill()
    assert server.wait(PATIENCE) == -signal.SIGKILL


def stopped(server: "subprocess.Popen[str]") -> None:
    server.terminate()
    server.communicate(timeout=PATIENCE)
    assert server.returncode == 0


def is_at_work(process: psutil.Process) -> bool:
    """False for one that has ended, also where nobody has asked for its exit code yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_s3_server_that_was_killed_is_taken_up_at_its_port(swift_server: dict[str, str], data: Path) -> None:
    first = started(S3, data)
    address = ready(first).removeprefix("export AWS_ENDPOINT_URL=")
    keys = {"aws_access_key_id": swift_server["AWS_ACCESS_KEY_ID"], "region_name": swift_server["AWS_REGION"]}
    store = boto3.client(
        "s3", endpoint_url=address, aws_secret_access_key=swift_server["AWS_SECRET_ACCESS_KEY"], **keys
    )
    store.create_bucket(Bucket="kept")
    store.put_object(Bucket="kept", Key="a", Body=b"1")

    other = started(S3, data)
    assert "served already" in other.communicate(timeout=PATIENCE)[1]
    assert other.returncode == 1
    assert store.get_object(Bucket="kept", Key="a")["Body"].read() == b"1", "the first is not disturbed"

    children = [one for one in at_work(data) if one.pid != first.pid]
    assert len(children) == 4
    killed(first)
    second = started(S3, data, "--port", address.rpartition(":")[2])
    assert ready(second).endswith(address)
    assert store.get_object(Bucket="kept", Key="a")["Body"].read() == b"1"
    assert not any(is_at_work(one) for one in children)
    stopped(second)
    assert not at_work(data)


def test_a_tracking_server_that_was_killed_is_taken_up(swift_server: dict[str, str], data: Path) -> None:
    """Killed while its database is made, and again while it serves."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    halfway = started(TRACKING, data, **swift_server)
    deadline = time.monotonic() + PATIENCE
    while not (data / "postgres.new" / "PG_VERSION").exists():
        assert halfway.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    killed(halfway)
    assert not (data / "postgres").exists()

    first = started(TRACKING, data, **swift_server)
    uri = ready(first).removeprefix("tracking.uri=")
    made = mlflow.MlflowClient(uri).create_experiment("kept")
    children = [one for one in at_work(data) if one.pid != first.pid]
    assert children
    killed(first)

    second = started(TRACKING, data, "--port", uri.rpartition(":")[2], **swift_server)
    assert ready(second) == f"tracking.uri={uri}"
    assert mlflow.MlflowClient(uri).get_experiment(made).name == "kept"
    assert not any(is_at_work(one) for one in children)
    stopped(second)
    assert not at_work(data)


def test_a_database_that_is_half_made_and_a_lost_password_are_said(data: Path) -> None:
    """Before anything is started: a new one would not open the database."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    (data / "postgres").mkdir()
    (data / "postgres" / "PG_VERSION").write_text("15\n")
    (data / "postgres.password").write_text("from before")
    server = started(TRACKING, data)
    said = server.communicate(timeout=PATIENCE)[1]
    assert (server.returncode, said.strip().count("\n")) == (1, 0)
    assert f"{data / 'postgres'} was left half made; delete it" in said  # as earlier versions could leave it
    (data / "postgres" / "global").mkdir()
    (data / "postgres" / "global" / "pg_control").touch()
    (data / "postgres.password").write_text("")
    server = started(TRACKING, data)
    said = server.communicate(timeout=PATIENCE)[1]
    assert server.returncode == 1
    assert said.strip().count("\n") == 0
    assert "half made" not in said
    assert str(data / "postgres.password") in said
    assert (data / "postgres.password").read_text() == ""
