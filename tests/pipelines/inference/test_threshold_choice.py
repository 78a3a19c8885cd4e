"""A threshold that a rule chooses on a validation split goes into a copy of the model, and says how it was chosen."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support import tiny

from mpc_model.errors import DataError, UserError
from mpc_model.evaluation.metrics import scores_of
from mpc_model.localizer import Localizer
from pipelines import reuse
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.evaluate import evaluate
from pipelines.inference import score_store, threshold_choice


def test_the_model_with_the_threshold_is_written_and_its_card_says_how(built: Config, tmp_path: Path) -> None:
    model = tiny()
    model.save(tmp_path / "in")
    config = recipe.revised(
        built,
        f"evaluate.model={tmp_path}/in",
        f"evaluate.output={tmp_path}/out",
        "evaluate.split=validation",
        "evaluate.threshold=best_f1",
        "evaluate.robustness=[]",
        "evaluate.workers=0",
        f"workspace={tmp_path}",
    )
    found = evaluate(config)
    written = Localizer.load(tmp_path / "out" / "model")
    choice = written.card["chosen_threshold"]
    manifest = Manifest.read(str(built.build.output))
    assert found["chosen_threshold"] == choice  # type: ignore[typeddict-item]
    assert written.spec.threshold == choice["value"] != model.spec.threshold
    assert (choice["rule"], choice["split"], choice["fingerprint"]) == ("best_f1", "validation", manifest.fingerprint)
    assert choice["images"] == manifest.splits["validation"].samples
    assert written.card["image_threshold"] == found["image_level"]["advised_threshold"]  # type: ignore[typeddict-item]
    assert all((written.state_dict()[name] == value).all() for name, value in model.state_dict().items())
    assert model.spec.threshold == Localizer.load(tmp_path / "in").spec.threshold
    again = evaluate(
        recipe.revised(
            config, f"evaluate.model={tmp_path}/out/model", f"evaluate.output={tmp_path}/2", "evaluate.threshold=keep"
        )
    )
    assert again["model"]["f1"] >= found["model"]["f1"]  # type: ignore[typeddict-item]
    assert again["threshold"] == choice["value"]  # type: ignore[typeddict-item]
    assert again["image_level"]["threshold"] == written.card["image_threshold"]  # type: ignore[typeddict-item]
    identity = reuse.evaluation_identity(config, manifest)
    assert identity["threshold"] == ["best_f1"]


@pytest.mark.parametrize(
    "overrides", [["evaluate.threshold=youden"], ["evaluate.threshold=youden", "evaluate.split=test"]]
)
def test_a_test_split_chooses_no_threshold(overrides: list[str]) -> None:
    with pytest.raises(UserError, match=r"chosen on a test split makes its metrics too good; set split to validation"):
        recipe.load(None, overrides)


def test_the_rule_that_allows_false_alarms_has_a_share_of_its_own(built: Config, tmp_path: Path) -> None:
    overrides = ["evaluate.split=validation", "evaluate.threshold=false_alarms", "evaluate.threshold_false_alarms=0.25"]
    settings = recipe.revised(built, *overrides).evaluate
    counts = np.zeros((2, 256), np.int64)
    counts[0] = 1
    table = pa.table({"group": pa.array([0], pa.int32()), "histogram": [counts.astype("<u4").tobytes()]})
    done = score_store.add(str(tmp_path), "k", [0], table)
    choice = threshold_choice.chosen({0: done["location"][0].as_py()}, settings, "f" * 64)
    assert scores_of(counts, threshold=choice["value"]).called_fraction == 0.25
    assert choice["at_most"] == 0.25
    no_forged = settings.model_copy(update={"threshold": "best_f1"})
    with pytest.raises(DataError, match="best_f1 needs forged images"):
        threshold_choice.chosen({0: done["location"][0].as_py()}, no_forged, "f" * 64)
