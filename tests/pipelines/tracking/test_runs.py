"""MLflow runs: what is written of them, and how they hang together."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mpc_model.errors import InfrastructureError, UserError
from pipelines.build import build
from pipelines.commands import COMMANDS
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.finetune import finetune
from pipelines.runtime import host, signals, storage, tracking_uri
from pipelines.tracking import client, outbox, results, runs


def at(folder: Path, *more: str) -> Config:
    return recipe.load(None, [f"workspace={folder}", *more])


def test_a_run_below_another_carries_its_parent_its_name_and_its_tags(tmp_path: Path) -> None:
    config = at(tmp_path)
    above = runs.start_run(config, "demo")
    below = runs.start_run(config, "pretrain", parent=above, name="trial 3", tags={"mpc.trial": "3"})
    run = client.client(config).get_run(below)
    assert run.info.run_name == "trial 3"
    assert run.data.tags["mlflow.parentRunId"] == above
    assert run.data.tags | {"mpc.trial": "3", "mpc.verb": "pretrain"} == run.data.tags
    assert "mlflow.parentRunId" not in client.client(config).get_run(above).data.tags


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def short(built: Config, folder: Path, *more: str) -> Config:
    """Stage 2 alone, from scratch, tracked in a database of its own."""
    overrides = [f"finetune.output={folder / 'finetune'}", f"tracking.uri=sqlite:///{folder / 'mlflow.db'}"]
    return recipe.revised(built, *overrides, "finetune.start=scratch", "finetune.unfreeze=all", *more)


def statuses(config: Config) -> list[str]:
    store = client.client(config)
    everywhere = [one.experiment_id for one in store.search_experiments()]
    return [run.info.status for run in store.search_runs(everywhere)]


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as a terminal has it: what a script starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_sigterm_ends_a_job_that_ignores_ctrl_c(ctrl_c: None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    done = list[str]()

    def write() -> None:
        with signals.defer_interrupts():
            signals.interrupt(signal.SIGTERM, None)
            done.append("written")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert done == ["written"]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt):
        signals.interrupt(signal.SIGTERM, None)


def test_an_interrupt_waits_for_what_must_be_whole_and_a_second_one_does_not(ctrl_c: None) -> None:
    done = list[Any]()

    def write(name: str, times: int) -> None:
        with signals.defer_interrupts():
            for _ in range(times):
                interrupt()
            done.append(name)

    for name, times in (("first", 1), ("second", 2)):
        with pytest.raises(KeyboardInterrupt):
            write(name, times)
    assert done == ["first"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    elsewhere = threading.Thread(target=lambda: done.append(signals.defer_interrupts().__enter__()))
    elsewhere.start()  # only the main thread may set handlers, and only it is interrupted
    elsewhere.join()
    assert done == ["first", None]


@pytest.mark.parametrize("moment", ["create_run", "log_inputs", "set_terminated"])
def test_no_run_is_left_running_whenever_the_interrupt_comes(
    built: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, ctrl_c: None
) -> None:
    """In the middle of a write: where the run is begun, described, and ended."""
    config, real = short(built, tmp_path), getattr(MlflowClient, moment)

    def struck(self: MlflowClient, *told: Any, **more: Any) -> Any:
        monkeypatch.setattr(MlflowClient, moment, real)
        interrupt()
        return real(self, *told, **more)

    monkeypatch.setattr(MlflowClient, moment, struck)
    with pytest.raises(KeyboardInterrupt):
        finetune(config)
    assert statuses(config) == ["KILLED"]
    finetune(config)
    assert statuses(config) == ["FINISHED"]


def test_a_run_that_cannot_be_described_is_ended(
    built: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = short(built, tmp_path)

    def refuse(*told: Any, **more: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(MlflowClient, "log_dict", refuse)
    with pytest.raises(InfrastructureError, match="does not answer: no space left"):
        finetune(config)
    assert statuses(config) == ["FAILED"]


def test_a_run_that_was_deleted_is_followed_by_a_new_one(built: Config, tmp_path: Path, capsys: Any) -> None:
    config = short(built, tmp_path)
    first = runs.start_run(config, "finetune")
    client.client(config).delete_run(first)
    for lost in (first, "0" * 32):
        again = runs.start_run(config, "finetune", lost)
        assert again != lost
        assert f"its run {lost} is no longer in MLflow" in capsys.readouterr().err
    assert runs.start_run(config, "finetune", again) == again


def test_what_a_run_was_made_with_is_in_its_tags(tmp_path: Path) -> None:
    config = at(tmp_path)
    tags = client.client(config).get_run(runs.start_run(config, "pretrain")).data.tags
    versions = {package.partition(" ")[0] for package in tags["mpc.versions"].split(", ")}
    assert {"python", "torch", "ray", "mlflow", "numpy"} <= versions
    assert any(name.startswith("opencv") for name in versions)
    name, cpus, memory, *_ = tags["mpc.machine"].split(", ")
    assert int(cpus.split()[0]) >= 1
    assert float(memory.split()[0]) > 0.1
    assert name == os.uname().nodename
    assert tags["mlflow.source.name"] == "mpc pretrain"


def test_the_commit_is_told_with_whether_files_differ_and_not_where_there_is_none(tmp_path: Path) -> None:
    def git(*told: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *told], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert host._git(tmp_path) == {}
    git("init", "-q")
    assert host._git(tmp_path) == {}  # nothing committed
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "a")
    (tmp_path / "b").write_text("untracked")
    commit = git("rev-parse", "HEAD")
    assert host._git(tmp_path) == {"mlflow.source.git.commit": commit, "mpc.git_dirty": "false"}
    (tmp_path / "a").write_text("2")
    assert host._git(tmp_path)["mpc.git_dirty"] == "true"
    (tmp_path / "installed").mkdir()
    assert host._git(tmp_path / "installed") == {}


def test_stage_2_names_the_run_that_its_encoder_came_from(trained: Config) -> None:
    ids = {}
    for verb in ("pretrain", "finetune"):
        ids[verb] = json.loads(Path(str(getattr(trained, verb).output), "record.json").read_text())["results"]["run_id"]
    tags = client.client(trained).get_run(ids["finetune"]).data.tags
    assert tags["mpc.pretrain_run"] == ids["pretrain"]
    assert tags["mpc.output"] == trained.finetune.output


@pytest.mark.parametrize("secret", ["hunter2", "hun%2Fter%402", "hun:ter2", "hun@ter2"])
def test_a_password_of_the_server_is_told_nobody(
    built: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, secret: str
) -> None:
    """Neither by what fails, nor by what is saved or printed."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(outbox, "HURRY_SECONDS", 0.5)
    uri = f"http://mpc:{secret}@127.0.0.1:9"
    config = short(built, tmp_path).model_copy(update={"tracking": built.tracking.model_copy(update={"uri": uri})})
    with pytest.raises(InfrastructureError, match=r"MLflow at http://\*\*\*@127\.0\.0\.1:9 does not answer") as failure:
        finetune(config)
    assert secret not in str(failure.value)
    outbox.finish(config, "finetune", "run", "FAILED")
    assert secret not in storage.read_bytes(outbox.unsent(str(config.finetune.output))).decode()
    said = capsys.readouterr().err
    assert "they are kept in" in said
    assert secret not in said
    for scheme in ("http", "postgresql", "postgresql+pg8000", "mysql+pymysql"):
        there = runs.Config.model_validate({"tracking": {"uri": f"{scheme}://mpc:{secret}@host:5432/mlflow"}})
        assert there.dump()["tracking"]["uri"] == f"{scheme}://***@host:5432/mlflow"


def test_the_runs_of_a_block_are_shown_below_its_own_which_ends_as_the_block_does(tmp_path: Path) -> None:
    config = at(tmp_path)
    with runs.running(config, "demo") as above:
        below = runs.start_run(config, "pretrain")
        runs.finish(config, below)
    assert client.client(config).get_run(below).data.tags["mlflow.parentRunId"] == above
    assert statuses(config) == ["FINISHED", "FINISHED"]
    for failure, status in ((KeyboardInterrupt(), "KILLED"), (InfrastructureError("x"), "FAILED")):
        with pytest.raises(type(failure)), runs.running(config, "demo") as again:
            raise failure
        assert again == above  # the same command goes on with its run
        assert client.client(config).get_run(above).info.status == status


def test_a_result_is_recorded_once_with_its_figures_and_its_dataset(built: Config, tmp_path: Path, capsys: Any) -> None:
    config = short(built, tmp_path)
    for _ in range(2):
        results.record(config, COMMANDS["build"], build(config))
    (run,) = client.client(config).search_runs(["1"])
    manifest = Manifest.read(str(config.build.output))
    assert run.info.status == "FINISHED"
    assert run.data.metrics["build/train_samples"] == manifest.splits["train"].samples
    assert run.inputs.dataset_inputs[0].dataset.digest == manifest.fingerprint[:32]
    away = config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": "http://127.0.0.1:9"})})
    results.record(away, COMMANDS["build"], build(away))
    assert "the result is not in MLflow" in capsys.readouterr().err


def test_processes_that_make_the_store_at_once_do_not_break_it(tmp_path: Path) -> None:
    code = "import sys\nfrom pipelines.config import recipe\nfrom pipelines.tracking import runs\n"
    code += "config = recipe.load(None, [f'workspace={sys.argv[1]}'])\n"
    code += "run_id = runs.start_run(config, 'pretrain')\nruns.finish(config, run_id)"
    command = [sys.executable, "-c", code, str(tmp_path / "new")]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 2, said
    assert statuses(at(tmp_path / "new")) == ["FINISHED"] * 2


def test_the_path_of_a_database_is_made_absolute_since_workers_run_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = at(tmp_path, "tracking.uri=sqlite:///below/runs.db?timeout=7")
    assert config.tracking.uri == f"sqlite:///{tmp_path}/below/runs.db?timeout=7"
    assert tracking_uri.absent_database(str(config.tracking.uri)) == f"{tmp_path}/below/runs.db"
    client.client(config)
    assert Path("below/runs.db").exists()
    assert tracking_uri.absent_database(str(config.tracking.uri)) is None
    for uri in ("http://host:5000", "postgresql+psycopg2://me@host/mlflow"):
        assert at(tmp_path, f"tracking.uri={uri}").tracking.uri == uri


@pytest.mark.parametrize(
    "uri", ["sqlite:///", "sqlite://two.db", "sqlite:///:memory:", "foo", "foo://x", "./mlruns", "http://", ""]
)
def test_what_is_no_store_is_refused_with_its_key(uri: str) -> None:
    with pytest.raises(UserError, match=r"config key tracking\.uri: .*sqlite:///<path>/mlflow\.db"):
        recipe.load(None, [f"tracking.uri='{uri}'"])


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sqlite:////proc/runs.db", "no database at /proc/runs.db"),
        ("sqlite:///{folder}", "it is a folder"),
        ("sqlite:///{folder}/photo.jpg", "another kind of file"),
        ("sqlite:///{folder}/photo.jpg/runs.db", "photo.jpg/runs.db"),
        ("mssql+pyodbc://me:hunter2@host/mlflow", r"\*\*\*@host/mlflow needs the package pyodbc"),
    ],
)
def test_where_there_can_be_no_store_is_told_at_once_with_its_key(tmp_path: Path, uri: str, words: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 no database")
    config = at(tmp_path, f"tracking.uri={uri.format(folder=tmp_path)}")
    with pytest.raises(UserError, match=rf"tracking\.uri: .*{words}"):
        client.client(config)


@pytest.mark.parametrize("name", ["My%20Drive", "a?b #1", 'it\'s "q"'])
def test_a_workspace_of_any_name_holds_its_database_its_artifacts_and_its_runs(tmp_path: Path, name: str) -> None:
    config = at(tmp_path / name)
    mine = runs.start_run(config, "build", tags={"mpc.output": config.workspace})
    runs.start_run(config, "build", tags={"mpc.output": f"{config.workspace}2"})
    assert runs.find(config, "build", config.workspace) == mine
    assert runs.find(config, "build", f"{config.workspace}3") is None
    downloaded = client.client(config).download_artifacts(mine, "config.yaml")
    stored = tmp_path / name / "mlflow-artifacts" / mine / "artifacts" / "config.yaml"
    assert Path(downloaded).read_bytes() == stored.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {path.name for path in (tmp_path / name).iterdir()} == {"mlflow.db", "mlflow.db.lock", "mlflow-artifacts"}


def test_artifacts_go_to_a_workspace_on_s3_or_it_is_refused(tmp_path: Path, s3: str) -> None:
    store = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    config = recipe.load(None, [f"workspace={s3}/My%20Drive +é", store, "tracking.experiment=one"])
    run = runs.start_run(config, "build")
    assert storage.list_files(f"{s3}/My%20Drive +é") == [
        f"{s3}/My%20Drive +é/mlflow-artifacts/{run}/artifacts/config.yaml"
    ]
    with pytest.raises(UserError, match=r"MLflow cannot keep artifacts in .*a\?b/mlflow-artifacts"):
        runs.start_run(recipe.revised(config, f"workspace={s3}/a?b", "tracking.experiment=two"), "build")
