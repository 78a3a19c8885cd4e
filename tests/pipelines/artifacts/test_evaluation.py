"""The document of an evaluation as `mpc evaluate` writes it."""

import json
from pathlib import Path
from typing import get_type_hints

from pipelines.artifacts.evaluation import FILE_NAME, EvaluationMetrics, EvaluationResult
from pipelines.config.root import Config


def test_the_document_on_disk_has_the_keys_of_the_type(trained: Config, registered: dict[str, str]) -> None:
    output = Path(str(trained.evaluate.output))
    document = json.loads((output / FILE_NAME).read_text())
    assert EvaluationMetrics.__required_keys__ <= document.keys() <= get_type_hints(EvaluationMetrics).keys()
    results = json.loads((output / "record.json").read_text())["results"]
    assert results.keys() >= EvaluationResult.__required_keys__
    assert {key: results[key] for key in document} == document


def test_every_method_has_the_same_summary_and_every_kind_its_mean(trained: Config, registered: dict[str, str]) -> None:
    document: EvaluationMetrics = json.loads(Path(str(trained.evaluate.output), FILE_NAME).read_text())
    assert document["model"].keys() == document["untrained"].keys() == document["everything_forged"].keys()
    assert document["robustness"].keys() == set(trained.evaluate.robustness)
    assert "authentic" not in document["f1_by_kind"]
    low, high = min(document["f1_by_kind"].values()), max(document["f1_by_kind"].values())
    f1 = document["model"]["f1"]
    assert f1 is not None
    assert low - 1e-9 <= f1 <= high + 1e-9  # a mean over all kinds
