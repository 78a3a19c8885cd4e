"""Training that is tracked by real MLflow servers: one on PostgreSQL and S3, and ones that are killed or hang."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from mpc_model.errors import InfrastructureError
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.finetune import Finetuning, finetune
from pipelines.runtime.retry import Backoff
from pipelines.tracking import client, outbox, runs
from pipelines.training import loop
from pipelines.training.worker_context import Report, WorkerContext

PATIENCE = 120


class Server:
    """`mlflow server` on an SQLite file, at one port however often it is killed and started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        command = [Path(sys.executable).with_name("mlflow"), "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                list(map(str, command)), stdout=log, stderr=log, start_new_session=True, env={**os.environ, **quiet}
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            return True
        return False


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(outbox, "BACKOFF", Backoff(first=1.0, longest=1.0))
    made = Server(tmp_path)
    yield made
    made.kill()


def short(built: Config, folder: Path, uri: str, *more: str) -> Config:
    """Stage 2 alone, from scratch: seconds."""
    return recipe.revised(
        built,
        f"finetune.output={folder / 'finetune'}",
        f"tracking.uri={uri}",
        "finetune.start=scratch",
        "finetune.unfreeze=all",
        "train.checkpoint_every=2",
        *more,
    )


def points(config: Config, run_id: str, key: str) -> list[int]:
    """The steps of a metric in the order of their times, with their duplicates."""
    history = client.client(config).get_metric_history(run_id, key)
    return [point.step for point in sorted(history, key=lambda point: (point.timestamp, point.step))]


def expected(config: Config, epochs: int) -> dict[str, list[int]]:
    """What a run that nobody disturbed reports: every ten steps and at the end of each epoch."""
    samples = Manifest.read(str(config.train.dataset)).splits["train"].samples
    steps = -(-samples // config.train.batch_size)
    ends = [steps * (epoch + 1) for epoch in range(epochs)]
    return {"train/total": sorted({*ends, *range(10, ends[-1] + 1, 10)}), "validation/f1": ends}


def found(config: Config, run_id: str) -> dict[str, list[int]]:
    return {key: points(config, run_id, key) for key in ("train/total", "validation/f1")}


def test_a_run_is_kept_by_postgresql_and_its_pictures_by_s3(
    built: Config,
    tracking_server: str,
    swift_server: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through the server alone: this process has no S3 credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    config = short(built, tmp_path, tracking_server, "train.pictures_every=2", "tracking.experiment=real")
    run_id = finetune(config)["run_id"]
    run = client.client(config).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert found(config, run_id) == expected(config, 1)
    assert run.data.params["finetune.learning_rate"] == "0.001"
    assert run.data.tags["mpc.versions"].startswith(f"python {sys.version.split()[0]}, ")
    assert run.inputs.dataset_inputs[0].dataset.digest == Manifest.read(str(config.train.dataset)).fingerprint[:32]
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    store = boto3.client(
        "s3",
        endpoint_url=swift_server["AWS_ENDPOINT_URL"],
        region_name=swift_server["AWS_REGION"],
        aws_access_key_id=swift_server["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=swift_server["AWS_SECRET_ACCESS_KEY"],
    )
    kept = {item["Key"]: item["Size"] for item in store.list_objects_v2(Bucket="mlflow")["Contents"]}
    (picture,) = (name for name in kept if name.endswith(f"{run_id}/artifacts/pictures/step-000000002.jpg"))
    assert kept[picture] == (tmp_path / "finetune" / "pictures" / "step-000000002.jpg").stat().st_size
    assert any(name.endswith(f"{run_id}/artifacts/config.yaml") for name in kept)


@pytest.mark.parametrize("seconds", [0.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_training_goes_on_while_the_server_is_dead_and_every_report_arrives_once(
    built: Config, server: Server, tmp_path: Path, capsys: Any, seconds: float
) -> None:
    """Killed after the first epoch, there again after the fourth, when its absence was noticed, or later.

    So that training lasts as long, an epoch without the server takes a second.
    """
    config = short(built, tmp_path, server.uri, f"finetune.epochs={6 + int(seconds)}")
    run_id = runs.start_run(config, "finetune")
    epochs, died, dead = 0, 0.0, False

    def report(of_epoch: Report) -> None:
        nonlocal epochs, died, dead
        if not of_epoch.ends_epoch:
            return
        epochs += 1
        if epochs == 1:
            server.kill()
            died, dead = time.monotonic(), True
        elif dead and epochs >= 4 and time.monotonic() - died >= seconds:
            assert "does not answer" in said_until(capsys, "its reports are kept and sent later")
            assert json.loads(Path(outbox.unsent(str(config.finetune.output))).read_text())
            server.start()
            dead = False
        elif dead and seconds:
            time.sleep(1)

    loop.run(config, Finetuning, run_id, WorkerContext(report=report))
    assert not dead
    assert found(config, run_id) == expected(config, config.finetune.epochs)
    assert not Path(outbox.unsent(str(config.finetune.output))).exists()


def said_until(capsys: Any, words: str) -> str:
    said, deadline = "", time.monotonic() + PATIENCE
    while words not in said:
        assert time.monotonic() < deadline, said
        said += capsys.readouterr().err
        time.sleep(0.02)
    return said


def test_a_server_that_hangs_holds_neither_training_nor_its_end_up(
    built: Config, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """It takes connections and never answers; the same command, when it answers again, sends what was kept."""
    monkeypatch.setattr(outbox, "END_SECONDS", 3.0)
    monkeypatch.setattr(outbox, "HURRY_SECONDS", 1.0)
    config = short(built, tmp_path, server.uri, "finetune.epochs=3")
    began = runs.start_run

    def start_run(*told: Any, **more: Any) -> str:
        run_id = began(*told, **more)
        server.signal(signal.SIGSTOP)
        return run_id

    monkeypatch.setattr(runs, "start_run", start_run)
    run_id = finetune(config)["run_id"]
    assert "run the same command again to send them" in capsys.readouterr().err
    server.signal(signal.SIGCONT)
    assert client.client(config).get_run(run_id).info.status == "RUNNING"
    finetune(config)
    assert "reusing the finished run" in capsys.readouterr().err
    assert client.client(config).get_run(run_id).info.status == "FINISHED"
    assert found(config, run_id) == expected(config, 3)


@pytest.mark.slow
def test_a_run_is_not_begun_without_mlflow_but_one_that_is_begun_goes_on(
    built: Config, server: Server, tmp_path: Path, capsys: Any
) -> None:
    config = short(built, tmp_path, server.uri, "finetune.epochs=2")
    server.kill()
    client._client.cache_clear()
    with pytest.raises(InfrastructureError, match=rf"MLflow at {server.uri} does not answer"):
        finetune(config)
    assert not (tmp_path / "finetune").exists()
    server.start()
    driver = command(config, tmp_path)
    wait_for(lambda: (tmp_path / "finetune" / "checkpoints" / "step-000000002" / "checkpoint.json").exists(), driver)
    server.kill()
    wait_for(lambda: Path(outbox.unsent(str(config.finetune.output))).exists(), driver)
    driver.kill()
    driver.wait()
    run_id = json.loads((tmp_path / "finetune" / "record.json").read_text())["results"]["run_id"]
    again = command(config, tmp_path, "tracking.uri=" + server.uri)
    said = again.communicate(timeout=PATIENCE)[1]
    assert again.returncode == 0, said
    assert "the run goes on, its reports are kept" in said
    assert "run the same command again to send them" in said
    server.start()
    last = command(config, tmp_path)
    said = last.communicate(timeout=PATIENCE)[1]
    assert last.returncode == 0, said
    assert found(config, run_id) == expected(config, 2)
    assert client.client(config).get_run(run_id).info.status == "FINISHED"


def command(config: Config, folder: Path, *more: str) -> "subprocess.Popen[str]":
    """`mpc finetune` with a config, as a process of its own."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(config.dump()))
    run = [sys.executable, "-m", "pipelines.cli", "finetune", "--config", str(file), *more]
    return subprocess.Popen(run, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(ready: Any, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
