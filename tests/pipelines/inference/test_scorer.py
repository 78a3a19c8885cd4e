"""A worker of `mpc evaluate`: its scores are those of the model on the stored pixels, and travel as JSON unchanged."""

from pathlib import Path

import numpy as np
import pytest
from support import tiny

from mpc_model.errors import DataError
from mpc_model.evaluation.metrics import pixel_scores
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.inference.scorer import METHODS, Scorer, decode_row, read_scores


@pytest.fixture
def scorer(built: Config, tmp_path: Path) -> Scorer:
    """A worker for the training split."""
    dataset = str(built.build.output)
    tiny().save(tmp_path / "model")
    settings = built.evaluate.model_copy(update={"split": "train", "robustness": ["jpeg70"]})
    return Scorer(str(tmp_path / "model"), dataset, Manifest.read(dataset), settings, seed=3)


def test_scores_are_those_of_the_stored_pixels(scorer: Scorer, built: Config) -> None:
    images = read_scores(scorer({"groups": [0]}))
    reader = ShardReader(str(built.build.output), Manifest.read(str(built.build.output)), "train")
    rows = reader.read(0, ("id", "key", "kind", "views"))
    assert [(image.id, image.group, image.row) for image in images] == [
        (row["id"], 0, index) for index, row in enumerate(rows)
    ]
    for image, row in zip(images, rows, strict=True):
        pixels, mask = decode_row(row)
        assert image.scores["model"] == pixel_scores(scorer.model.predict([pixels])[0], mask)
        assert image.scores["everything_forged"] == pixel_scores(np.ones(mask.shape, np.float32), mask)
        assert set(image.scores) == set(METHODS)
        assert set(image.degraded) == ({"jpeg70"} if image.is_forged else set())
    assert any(image.is_forged for image in images)
    assert read_scores(scorer({"groups": [0]})) == images


def test_a_failure_is_returned_as_a_value_and_raised_where_it_is_read(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(group: int, columns: object) -> list[object]:
        raise DataError(f"row group {group} is damaged")

    monkeypatch.setattr(scorer.reader, "read", damaged)
    item = scorer({"groups": [1]})
    with pytest.raises(DataError, match="row group 1 is damaged"):
        read_scores(item)
