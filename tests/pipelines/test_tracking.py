"""MLflow runs: what is written of them, and how they hang together."""

from pathlib import Path

from pipelines import recipe, tracking
from pipelines.config import Config


def at(folder: Path, *more: str) -> Config:
    return recipe.load(None, [f"workspace={folder}", *more])


def test_a_run_below_another_carries_its_parent_its_name_and_its_tags(tmp_path: Path) -> None:
    config = at(tmp_path)
    above = tracking.start_run(config, "demo")
    below = tracking.start_run(config, "pretrain", parent=above, name="trial 3", tags={"mpc.trial": "3"})
    run = tracking.client(config).get_run(below)
    assert run.info.run_name == "trial 3"
    assert run.data.tags["mlflow.parentRunId"] == above
    assert run.data.tags | {"mpc.trial": "3", "mpc.verb": "pretrain"} == run.data.tags
    assert "mlflow.parentRunId" not in tracking.client(config).get_run(above).data.tags
