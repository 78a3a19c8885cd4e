"""A registered model by its name, and its versions."""

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from mpc_model.errors import UserError


def registered_model(registry: MlflowClient, name: str, key: str) -> RegisteredModel:
    """The registered model of a name, which the config's `key` gives. UserError where there is none."""
    try:
        return registry.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    raise UserError(f"there is no registered model {name}; run `mpc register`, or set {key}")


def versions(registry: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a registered model, the newest first."""
    found, page = list[ModelVersion](), None
    while page != "":
        listed = registry.search_model_versions(f"name = '{name}'", page_token=page)
        found, page = [*found, *listed], listed.token or ""
    return sorted(found, key=lambda version: -int(version.version))
