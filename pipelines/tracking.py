"""MLflow runs: made by the driver, written from rank 0 by run id, so that a restarted worker goes on in it."""

import functools
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# MLflow's own defaults keep a job silent for minutes when the server is away.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from mpc_model.errors import InfrastructureError
from pipelines import storage
from pipelines.config import Config

P = ParamSpec("P")
T = TypeVar("T")

for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    """What MLflow, or the database behind it, fails with becomes one line of ours."""
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        said = " ".join(str(error).split())[:400]
        raise InfrastructureError(storage.without_secrets(f"MLflow at {uri} does not answer: {said}")) from error


def _told(call: Callable[P, T]) -> Callable[P, T]:
    """Decorator of what speaks to MLflow; its first argument is the config."""

    @functools.wraps(call)
    def inner(*args: P.args, **kwargs: P.kwargs) -> T:
        with _answering(str(args[0].tracking.uri)):  # type: ignore[attr-defined]
            return call(*args, **kwargs)

    return inner


def client(config: Config) -> MlflowClient:
    """A client of the configured store. The first use of an SQLite file creates its tables."""
    return _client(str(config.tracking.uri))


@functools.cache
def _client(uri: str) -> MlflowClient:
    if uri.startswith("sqlite:///"):
        os.makedirs(os.path.dirname(uri.removeprefix("sqlite:///")), exist_ok=True)
    with _answering(uri):
        found = MlflowClient(tracking_uri=uri, registry_uri=uri)
        found.search_experiments(max_results=1)
    return found


def answering(config: Config) -> AbstractContextManager[None]:
    """In this block, what the store fails with is an InfrastructureError of one line."""
    return _answering(str(config.tracking.uri))


@contextmanager
def fluent(config: Config) -> Iterator[None]:
    """MLflow's fluent calls read the store from the process: set it for this block only (the registry follows it)."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(str(config.tracking.uri))
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


@_told
def start_run(
    config: Config,
    verb: str,
    run_id: str | None = None,
    dataset: tuple[str, dict[str, Any]] | None = None,
    *,
    parent: str | None = None,
    name: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Make a run, or take up `run_id` again, and return its id.

    `dataset` is (location, manifest): it is logged as an input under its fingerprint. Parameters are the resolved
    config of the verb and of what training shares. `parent` is the run that this one is shown below; `name` is what
    people see (the verb, when left out).
    """
    store = client(config)
    if run_id:
        store.update_run(run_id, status="RUNNING")
        return run_id
    marks = {"mpc.verb": verb, **tags, **({MLFLOW_PARENT_RUN_ID: parent} if parent else {})}
    run = store.create_run(_experiment(store, config), run_name=name or verb, tags=marks)
    described = config.dump()
    params = {"seed": config.seed, "workspace": config.workspace}
    for section in {"model", "train", verb}:
        params |= {f"{section}.{key}": value for key, value in described.get(section, {}).items()}
    store.log_batch(run.info.run_id, params=[Param(key, str(value)[:6000]) for key, value in params.items()])
    store.log_dict(run.info.run_id, described, "config.yaml")
    if dataset:
        location, manifest = dataset
        entity = Dataset(
            name=location.rstrip("/").rsplit("/", 1)[-1],
            digest=manifest["fingerprint"][:32],
            source_type="mpc_pixel_dataset",
            source=json.dumps({"uri": location, "fingerprint": manifest["fingerprint"]}),
        )
        store.log_inputs(run.info.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", verb)])])
    return str(run.info.run_id)


@_told
def log(config: Config, run_id: str, metrics: Mapping[str, float], step: int) -> None:
    """Write metrics of one step in one request."""
    now = int(time.time() * 1000)
    batch = [Metric(key, float(value), now, step) for key, value in metrics.items()]
    client(config).log_batch(run_id, metrics=batch)


@_told
def last_steps(config: Config, run_id: str) -> dict[str, int]:
    """The last step that each kind of metric (train, validation) was written for, by kind."""
    store, found = client(config), dict[str, int]()
    for key in store.get_run(run_id).data.metrics:
        kind = key.partition("/")[0]
        if kind not in found:  # all of a kind are written together
            found[kind] = max(point.step for point in store.get_metric_history(run_id, key))
    return found


@_told
def log_picture(config: Config, run_id: str, name: str, data: bytes) -> None:
    """Keep a picture (an encoded image file) as the artifact `name` of a run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name.rpartition("/")[2]
        file.write_bytes(data)
        client(config).log_artifact(run_id, str(file), name.rpartition("/")[0])


@_told
def finish(config: Config, run_id: str, status: str = "FINISHED") -> None:
    """End a run: FINISHED, FAILED or KILLED. InfrastructureError when the store does not take it."""
    client(config).set_terminated(run_id, status)


def _experiment(store: MlflowClient, config: Config) -> str:
    """The id of the configured experiment; its artifacts live in the workspace when the store is a local database."""
    name = config.tracking.experiment
    found = store.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    local_store = str(config.tracking.uri).startswith("sqlite:")
    where = storage.join(storage.absolute(config.workspace), "mlflow-artifacts") if local_store else None
    return str(store.create_experiment(name, artifact_location=where))
