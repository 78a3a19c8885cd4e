"""What a registration that died, or failed, leaves in MLflow: it is taken away, so that nothing half made is seen.

A registration logs a model (PENDING until its files are there), makes the registered model where it is new, and then
the version. So a version always has its files. What may be left is a logged model that no version has, a registered
model without a version, and the lock (pipelines/model_registry/lock.py, itself a registered model without versions).
"""

from contextlib import suppress

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

MODEL = "localizer"
"""The name of the logged model that a registration makes."""
PROCESS = "mpc.process"
"""The tag of runs, and of registered models, with the process that made them."""


def clear(store: MlflowClient, run: Run) -> None:
    """Take away what the registration of a run left. MlflowException, and what databases raise, where MLflow fails."""
    found = store.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    versions = store.search_model_versions(f"run_id = '{run.info.run_id}'")
    kept = {version.source.rpartition("/")[2] for version in versions}
    for model in found:
        if model.model_id in kept:
            continue
        # Files first: where the disk is full, the database needs their room.
        with suppress(MlflowException, OSError, NotImplementedError):  # absent, or not ours to delete
            get_artifact_repository(model.artifact_location, store.tracking_uri).delete_artifacts()
        if model.status.value == "PENDING":
            store.finalize_logged_model(model.model_id, "FAILED")
        store.delete_logged_model(model.model_id)
    if process := run.data.tags.get(PROCESS):
        _clear_registered(store, process)


def clear_ended(store: MlflowClient, experiment: str) -> None:
    """`clear` for every registration that has ended and left a logged model PENDING: its own attempt failed."""
    found = store.search_logged_models([experiment], f"name = '{MODEL}'")  # the newest hundred
    for run_id in {model.source_run_id for model in found if model.status.value == "PENDING" and model.source_run_id}:
        run = store.get_run(run_id)
        if run.info.status in ("FAILED", "KILLED") and run.data.tags.get("mpc.verb") == "register":
            clear(store, run)


def _clear_registered(store: MlflowClient, process: str) -> None:
    """Delete the registered models that a process made and that have no version; its locks come last."""
    made = store.search_registered_models(f"tags.`{PROCESS}` = '{process}'")
    for model in sorted(made, key=lambda model: len(model.name)):
        if not store.search_model_versions(f"name = '{model.name}'"):
            store.delete_registered_model(model.name)
