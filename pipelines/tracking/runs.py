"""MLflow runs: made by the driver, written from rank 0 by run id, so that a restarted worker goes on in it."""

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mpc_model.errors import InfrastructureError, UserError
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import console, host, signals, storage, tracking_uri, uris
from pipelines.tracking import run_description, watchdog
from pipelines.tracking.client import client, fluent, mlflow_call

_above: ContextVar[str | None] = ContextVar("above", default=None)


@mlflow_call
def entry_is_there(config: Config, name: str, number: str) -> bool:
    """Whether a model version can be loaded: its files, or the logged model that they are of, may have been deleted."""
    with fluent(config):
        try:
            files = mlflow.artifacts.list_artifacts(artifact_uri=f"models:/{name}/{number}")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
    return any(file.path == "MLmodel" for file in files)


@mlflow_call
def entry_file(config: Config, name: str, number: str, file: str) -> bytes | None:
    """A file of a model version by its path in the entry, `<folder>/<name>`; None where there is none."""
    location = f"models:/{name}/{number}"
    with fluent(config), tempfile.TemporaryDirectory() as folder:
        listed = mlflow.artifacts.list_artifacts(artifact_uri=f"{location}/{file.rpartition('/')[0]}")
        if file.rpartition("/")[2] not in [found.path.rpartition("/")[2] for found in listed]:
            return None
        return Path(mlflow.artifacts.download_artifacts(f"{location}/{file}", dst_path=folder)).read_bytes()


@mlflow_call
def start_run(
    config: Config,
    verb: str,
    run_id: str | None = None,
    *datasets: tuple[str, Manifest],
    parent: str | None = None,
    name: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Make a run, or take up `run_id` again, and return its id.

    Each of `datasets`, (location, manifest), is logged as an input under its fingerprint. Parameters are the resolved
    config of the verb and of what training shares. `parent` is the run that this one is shown below; `name` is what
    people see (tracking/run_description.py, when left out).
    """
    store = client(config)
    if run_id and _is_there(store, config, verb, run_id):
        watchdog.watch(str(config.tracking.uri), run_id)
        return run_id
    marks = {
        "mpc.verb": verb,
        "mlflow.source.name": f"mpc {verb}",
        "mlflow.user": host.user(),
        watchdog.TAG: watchdog.PROCESS,
    }
    marks |= host.software() | host.hardware() | dict(tags)
    above = parent or _above.get()
    if above:
        marks[MLFLOW_PARENT_RUN_ID] = above
    run = store.create_run(
        _experiment(store, config), run_name=name or run_description.name_of(config, verb), tags=marks
    )
    watchdog.watch(str(config.tracking.uri), run.info.run_id)
    try:
        _describe(store, run.info.run_id, config, verb, datasets)
    except BaseException:
        with suppress(InfrastructureError):  # the failure itself must reach the user
            finish(config, run.info.run_id, "FAILED")
        raise
    return str(run.info.run_id)


def _is_there(store: MlflowClient, config: Config, verb: str, run_id: str) -> bool:
    """Set a run to RUNNING again. False, with a warning, when it was deleted, or is of another server."""
    try:
        store.set_tag(run_id, watchdog.TAG, watchdog.PROCESS)  # before the status, which a guard looks at first
        store.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        shown = uris.without_secrets(str(config.tracking.uri))
        console.warn(f"{verb}: its run {run_id} is no longer in MLflow at {shown}; what follows goes into a new one")
        return False
    return True


def _describe(
    store: MlflowClient, run_id: str, config: Config, verb: str, datasets: Sequence[tuple[str, Manifest]]
) -> None:
    listed = [Param(key, value) for key, value in run_description.parameters(config, verb).items()]
    store.log_batch(run_id, params=listed)
    store.log_dict(run_id, config.dump(), "config.yaml")
    for location, manifest in datasets:
        entity = Dataset(
            name=location.rstrip("/").rsplit("/", 1)[-1],
            digest=manifest.fingerprint[:32],
            source_type="mpc_pixel_dataset",
            source=json.dumps({"uri": location, "fingerprint": manifest.fingerprint}),
        )
        store.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", verb)])])


@contextmanager
def below(run_id: str) -> Iterator[None]:
    """Runs that are started in this block, by this thread, are shown below a run."""
    token = _above.set(run_id)
    try:
        yield
    finally:
        _above.reset(token)


@contextmanager
def running(config: Config, verb: str) -> Iterator[str]:
    """The run of a command that consists of others, whose runs are shown below it; it ends as the block ends.

    The same command in the same workspace goes on with its run.
    """
    run_id = None
    try:
        with signals.defer_interrupts():
            run_id = start_run(
                config, verb, find(config, verb, config.workspace), tags={"mpc.output": config.workspace}
            )
        with below(run_id):
            yield run_id
    except BaseException as error:
        if run_id:
            with suppress(InfrastructureError):  # the failure itself must reach the user
                finish(config, run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    try:
        finish(config, run_id)
    except InfrastructureError as error:
        console.warn(f"{verb}: {error}; all is done, but its run there is not ended")


@mlflow_call
def find(config: Config, verb: str, output: str, **tags: str) -> str | None:
    """The newest run of a verb for an output, with more tags that it must have."""
    store = client(config)
    wanted = {f"mpc.{key}": value for key, value in {"verb": verb, "output": output, **tags}.items()}
    # MLflow has no way to write a value that holds both kinds of quotes; such a one is compared here.
    condition = " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in wanted.items() if _quoted(value))
    page: str | None = None
    while True:
        found = store.search_runs([_experiment(store, config)], condition, max_results=20, page_token=page)
        for run in found:
            if wanted.items() <= run.data.tags.items():
                return str(run.info.run_id)
        if not (page := found.token):
            return None


def _quoted(value: str) -> str:
    """A value as MLflow's filters have it; empty where they have no way."""
    return next((f"{quote}{value}{quote}" for quote in ("'", '"') if quote not in value), "")


def now() -> int:
    """The time of a point, in ms since 1970."""
    return int(time.time() * 1000)


def log(config: Config, run_id: str, metrics: Mapping[str, float], step: int) -> None:
    """Write metrics of one step in one request."""
    log_points(config, run_id, [(step, now(), metrics)])


@mlflow_call
def log_points(config: Config, run_id: str, points: Sequence[tuple[int, int, Mapping[str, float]]]) -> None:
    """Write (step, time in ms, metrics) in one request: all of them, or none. MLflow takes 1000 values at most."""
    batch = [Metric(key, float(value), when, step) for step, when, metrics in points for key, value in metrics.items()]
    if batch:
        client(config).log_batch(run_id, metrics=batch)


@mlflow_call
def last_steps(config: Config, run_id: str) -> dict[str, int]:
    """The last step that each kind of metric (train, validation) was written for, by kind."""
    steps = dict[str, int]()
    for point in (
        client(config).get_run(run_id).data._metric_objs
    ):  # the newest point of each; the public view lacks steps
        kind = point.key.partition("/")[0]
        steps[kind] = max(point.step, steps.get(kind, -1))
    return steps


@mlflow_call
def tag(config: Config, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run in one request."""
    client(config).log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


@mlflow_call
def log_file(config: Config, run_id: str, name: str, data: bytes) -> None:
    """Keep the bytes of a file as the artifact `name` of a run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name.rpartition("/")[2]
        file.write_bytes(data)
        client(config).log_artifact(run_id, str(file), name.rpartition("/")[0])


def log_files(config: Config, run_id: str, folder: str, names: Iterable[str]) -> None:
    """Keep those of the named files of a folder that are there as artifacts of a run."""
    for name in names:
        location = uris.join(folder, name)
        if storage.exists(location):
            log_file(config, run_id, name, storage.read_bytes(location))


@mlflow_call
def rename(config: Config, run_id: str, name: str) -> None:
    """Change what a run is called."""
    client(config).update_run(run_id, name=name)


@mlflow_call
def is_finished(config: Config, run_id: str) -> bool:
    """Whether a run has ended well."""
    return bool(client(config).get_run(run_id).info.status == "FINISHED")


@mlflow_call
def finish(config: Config, run_id: str, status: str = "FINISHED", when: int | None = None) -> None:
    """End a run: FINISHED, FAILED or KILLED, now or at a time (ms). InfrastructureError when the store fails."""
    client(config).set_terminated(run_id, status, when)
    watchdog.leave(run_id)


def _experiment(store: MlflowClient, config: Config) -> str:
    """The id of the configured experiment; its artifacts live in the workspace when the store is a local database."""
    name = config.tracking.experiment
    experiment = store.get_experiment_by_name(name)
    if experiment and experiment.lifecycle_stage == "deleted":
        raise UserError(f"tracking.experiment: {name} was deleted in MLflow; restore it there, or name another")
    if experiment:
        return str(experiment.experiment_id)
    local_store = tracking_uri.database(str(config.tracking.uri)) is not None
    try:
        location = tracking_uri.of_artifacts(uris.join(config.workspace, "mlflow-artifacts")) if local_store else None
    except ValueError as error:
        raise UserError(str(error)) from None
    try:
        return str(store.create_experiment(name, artifact_location=location))
    except MlflowException as error:  # another process made it at the same time
        experiment = store.get_experiment_by_name(name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or not experiment:
            raise
        return str(experiment.experiment_id)
