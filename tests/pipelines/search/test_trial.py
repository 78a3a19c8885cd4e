"""A trial's config, and what its process reports."""

from pathlib import Path

from pipelines.config import recipe
from pipelines.search.ledger import Trial
from pipelines.search.trial import config_of, stages, whole_epochs


def test_a_trial_s_config_has_its_parameters_its_places_and_its_dataset(tmp_path: Path) -> None:
    space = "tune.space={pretrain.weights: [[1, 0, 0]], build.views.policy: [light, release]}"
    config = recipe.load(None, [f"workspace={tmp_path}", space, "tracking.uri=postgresql://me:secret@host/mlflow"])
    trial = Trial(7, {"pretrain.weights": [1, 0, 0], "build.views.policy": "release"})
    found = config_of(config, trial, {"build.views.policy=release": "/sets/release"})
    folder = f"{tmp_path}/tune/trials/0007"
    assert found.pretrain.weights == (1, 0, 0)
    assert found.train.dataset == "/sets/release"
    assert (found.pretrain.output, found.finetune.output) == (f"{folder}/pretrain", f"{folder}/finetune")
    assert found.finetune.encoder == f"{folder}/pretrain/model"
    assert found.tracking.uri == "postgresql://me:secret@host/mlflow"


def test_a_trial_of_an_adaptation_starts_from_the_localizer_of_the_config(tmp_path: Path) -> None:
    more = ["tune={stages: adapt, space: {adapt.temperature: [0.1, 1.0]}}", "adapt={target: /sets/night, epochs: 3}"]
    config = recipe.load(None, [f"workspace={tmp_path}", *more])
    found = config_of(config, Trial(2, {"adapt.temperature": 0.1}), {})
    assert (found.adapt.temperature, found.adapt.target) == (0.1, "/sets/night")
    assert found.adapt.output == f"{tmp_path}/tune/trials/0002/adapt"
    assert found.adapt.start == f"{tmp_path}/finetune/model"
    assert (stages(config), whole_epochs(config)) == (("adapt",), 3)
