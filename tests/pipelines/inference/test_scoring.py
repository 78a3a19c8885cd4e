"""All row groups of a split: what is stored is not scored again."""

from pathlib import Path

import pytest
from support import tiny

from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.inference import score_store, scoring
from pipelines.inference.scorer import Scorer
from pipelines.inference.split_scorer import Scope, ScoreJob


def test_what_is_missing_is_scored_and_the_rest_is_taken_up(
    built: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny().save(tmp_path / "model")
    manifest = Manifest.read(str(built.build.output))
    update = {"dataset": str(built.build.output), "model": str(tmp_path / "model"), "output": str(tmp_path / "out")}
    settings = built.evaluate.model_copy(update={**update, "robustness": [], "workers": 0})
    job = ScoreJob(Scorer, manifest, settings, 0, Scope(untrained=False), "k")
    first = scoring.score(job, 2, resumed=False)
    assert list(first) == [0, 1]
    again = scoring.score(job, 3, resumed=True)
    assert {group: again[group] for group in first} == first
    assert len(set(again.values())) == 3
    said = capsys.readouterr().err
    images = sum(len(rows) for rows in score_store.read(first))
    assert f"{images} of {manifest.splits['test'].samples} images are scored already" in said
