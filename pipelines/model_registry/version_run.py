"""What MLflow's pages compare of versions: metrics and parameters, on the run of a version and on its logged model.

The page that compares versions of a registered model reads the run that each was made in (`run_id`); that of logged
models, and their search, reads the logged model. Both get the same.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from mpc_model.localizer import Localizer
from pipelines.model_registry import version_metrics
from pipelines.model_registry.lineage import Link
from pipelines.model_registry.version_metrics import AnyMetrics, as_numbers
from pipelines.runtime.retry import Backoff, retry

_BACKOFF = Backoff(first=0.2, longest=1.0, attempts=4)
_OF_TRAINING = ("batch_size", "precision", "workers", "validation_images")
"""Keys of `train` that are parameters of a version, besides all settings of its stages."""
_NOT_PARAMETERS = ("output", "encoder", "cache", "target", "start", "initial")
"""Keys of a stage that are locations."""


def publish(
    registry: MlflowClient,
    version: ModelVersion,
    model: Localizer,
    links: Sequence[Link],
    evaluations: Sequence[AnyMetrics],
) -> bool:
    """Write the parameters of a version, and the metrics of evaluations, where MLflow's pages look for them.

    What is there is not written again. Two registrations of the same weights may do so at once: MLflow refuses what
    the other one wrote meanwhile, so it is looked at again. False where the run of the version was deleted: then
    nothing is written.
    """

    def attempt() -> bool:
        run = _run(registry, version)
        if run is None:
            return False
        model_id = str(version.source).removeprefix("models:/")
        parameters = hyperparameters(model, links)
        registry.log_model_params(model_id, _missing(parameters, registry.get_logged_model(model_id).params))
        listed = [Param(key, value) for key, value in _missing(parameters, run.data.params).items()]
        names = version_metrics.names(version_metrics.from_tags(version.tags).values())
        points = [
            point
            for metrics in evaluations
            for point in _points(metrics, names[metrics.key], version, run.data.metrics)
        ]
        registry.log_batch(run.info.run_id, metrics=points, params=listed)
        return True

    return retry(attempt, MlflowException, _BACKOFF)


def _run(registry: MlflowClient, version: ModelVersion) -> Run | None:
    try:
        run = registry.get_run(version.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _missing(values: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """The values that are not there: MLflow refuses to change one."""
    return {key: value for key, value in values.items() if key not in known}


def _points(metrics: AnyMetrics, name: str, version: ModelVersion, known: Mapping[str, float]) -> list[Metric]:
    """The metrics of an evaluation under the `name` of its test set, but for those that the run has.

    The first ones have the time of the version: MLflow keeps a point once that two registrations send at once.
    """
    model_id, prefix = str(version.source).removeprefix("models:/"), _allowed(name)
    now, first = int(time.time() * 1000), int(version.creation_timestamp)
    named = {f"{prefix}/{_allowed(key)}": value for key, value in as_numbers(metrics).items()}
    of_set: dict[str, Any] = {"dataset_name": name[:500], "dataset_digest": metrics.fingerprint[:32]}
    return [
        Metric(key, value, now if key in known else first, 0, model_id=model_id, **of_set)
        for key, value in named.items()
        if known.get(key) != value
    ]


def _allowed(name: str) -> str:
    """A name in the characters that MLflow takes for one of a metric, 120 at most."""
    return "".join(sign if sign.isalnum() or sign in "_-. :/" else "_" for sign in name).strip("/")[:120]


def hyperparameters(model: Localizer, links: Sequence[Link]) -> dict[str, str]:
    """The main ones: what the network is, and the settings of each stage that led to it."""
    spec = model.spec
    found: dict[str, Any] = {
        "model.backbone": spec.backbone,
        "model.head": spec.head,
        "model.input_size": spec.input_size,
        "model.classes": spec.classes,
        "model.parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    for link in links:
        document = yaml.safe_load(link.config)
        verb = link.name.partition("-")[0]  # finetune-2 is a finetune, too
        settings = {key: value for key, value in document.get(verb, {}).items() if key not in _NOT_PARAMETERS}
        settings |= {key: document["train"][key] for key in _OF_TRAINING if key in document.get("train", {})}
        settings["seed"] = document.get("seed")
        found |= {f"{link.name}.{key}": value for key, value in settings.items()}
    return {key: str(value)[:500] for key, value in found.items() if not isinstance(value, dict | list)}
