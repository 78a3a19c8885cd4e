"""Registered models and their versions, in a real store."""

from pathlib import Path

import pytest

from mpc_model.errors import UserError
from pipelines.config import recipe
from pipelines.model_registry import lookup
from pipelines.tracking import client


def test_a_model_and_all_of_its_versions_are_found_the_newest_first(tmp_path: Path) -> None:
    store = client.client(recipe.load(None, [f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]))
    with pytest.raises(UserError, match=r"no registered model ours; run `mpc register`, or set promote\.name"):
        lookup.registered_model(store, "ours", "promote.name")
    store.create_registered_model("ours")
    assert lookup.versions(store, "ours") == []
    for _ in range(11):
        store.create_model_version("ours", str(tmp_path))
    assert lookup.registered_model(store, "ours", "promote.name").name == "ours"
    assert [int(version.version) for version in lookup.versions(store, "ours")] == list(range(11, 0, -1))
