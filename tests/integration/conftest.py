"""Real servers for the integration tests: OpenStack Swift as `infra/s3/serve.py` runs it, and MLflow on PostgreSQL with
artifacts in Swift as `infra/tracking/serve.py` does."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import psutil
import pytest
from two_hosts import TwoHosts

INFRA = Path(__file__).parents[2] / "infra"
SERVE = INFRA / "s3" / "serve.py"
_buckets = itertools.count(1)


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that reach a running server. Without a network it cannot be installed: skipped, but never in CI."""
    installed = subprocess.run([sys.executable, SERVE, "--install"], capture_output=True, text=True, timeout=500)
    if installed.returncode:
        reason = f"the S3 server cannot be installed: {installed.stderr.strip().splitlines()[-1]}"
        _skip(reason)
    command = [sys.executable, SERVE, "--data", tmp_path_factory.mktemp("swift")]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert server.stdout
        ready = server.stdout.readline()
        assert "ready" in ready, "the S3 server did not start"
        lines = [server.stdout.readline().removeprefix("export ").strip() for _ in range(5)]
        yield dict(line.split("=", 1) for line in lines)
        server.terminate()
        assert server.wait(timeout=30) == 0
        with pytest.raises(ProcessLookupError):  # nothing it started is left
            os.killpg(server.pid, 0)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@pytest.fixture
def swift(swift_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket of the real server, with the AWS variables set to reach it."""
    for name, value in swift_server.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    bucket = f"mpc-{next(_buckets)}"
    session = boto3.session.Session()  # the default one has the credentials of its first use
    client = session.client("s3", endpoint_url=swift_server["AWS_ENDPOINT_URL"], region_name=swift_server["AWS_REGION"])
    client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


def _skip(reason: str) -> None:
    """What cannot be run here is skipped, but never in CI."""
    pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture(scope="session")
def tracking_server(swift_server: dict[str, str]) -> Iterator[str]:
    """The `tracking.uri` of MLflow on PostgreSQL, with artifacts in the bucket `mlflow` of the S3 server."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        _skip("PostgreSQL's server is not installed: apt-get install postgresql")
    data = tempfile.mkdtemp(prefix="mpc-tracking-")
    os.chmod(data, 0o755)  # PostgreSQL's own account has to reach it
    command = [sys.executable, INFRA / "tracking" / "serve.py", "--data", data]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, **swift_server}
    )
    try:
        assert server.stdout
        ready = server.stdout.readline()
        assert "ready" in ready, "".join(file.read_text() for file in Path(data).glob("*.log"))
        yield server.stdout.readline().strip().removeprefix("tracking.uri=")
        server.terminate()
        assert server.wait(timeout=60) == 0
        assert not [one for one in psutil.process_iter() if data in " ".join(_command_line(one))]
    finally:
        if server.poll() is None:
            server.terminate()  # it ends what it started, each in a group of its own
            server.wait(timeout=60)
        shutil.rmtree(data)


def _command_line(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    """A cluster of its own: what Ray remembers of hosts and runs that were lost outlives them by seconds to minutes."""
    if not TwoHosts.possible():
        pytest.skip("network namespaces need root")
    with TwoHosts() as cluster:
        yield cluster
