"""Remembered scores of an untrained network: found again, told apart, and never believed when they are damaged."""

import json
from pathlib import Path
from typing import Any

import pytest

from mpc_model.evaluation.metrics import Scores
from mpc_model.localizer import ModelSpec
from pipelines.artifacts import untrained

SPEC = ModelSpec("hrformer_tiny", "mlp4", 64)
SCORES = [
    Scores(0.1 + 0.2, 1 / 3, 1.0, 0.0, 2**-40, 0.7, 4096, 0.3, 0.5, 0.4, 0.6, -0.25, 1 / 7, 1.0),
    Scores(0.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0),
]


def origin(spec: ModelSpec = SPEC, **changed: Any) -> untrained.MadeFrom:
    given = {"seed": 3, "fingerprint": "f" * 64, "split": "test", "precision": "fp32", **changed}
    return untrained.made_from(spec, **given)


def test_scores_are_found_again_to_the_last_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert untrained.read(str(tmp_path), origin(), 2) is None
    untrained.write(str(tmp_path), origin(), SCORES)
    untrained.write(str(tmp_path), origin(), SCORES)  # of two evaluations at once, the second
    assert untrained.read(str(tmp_path), origin(), 2) == SCORES
    assert len(list((tmp_path / "untrained").iterdir())) == 1
    assert capsys.readouterr().err == ""


def test_everything_that_changes_the_scores_tells_them_apart(tmp_path: Path) -> None:
    untrained.write(str(tmp_path), origin(), SCORES)
    others = [
        origin(ModelSpec("hrformer_small", "mlp4", 64)),
        origin(ModelSpec("hrformer_tiny", "mlp4", 128)),
        origin(ModelSpec("hrformer_tiny", "mlp4", None)),
        origin(ModelSpec("hrformer_tiny", "mlp4", 64, head_settings={"spectra": 4})),
        origin(seed=4),
        origin(fingerprint="e" * 64),
        origin(split="validation"),
        origin(precision="bf16"),
        {**origin(), "code": "0" * 64},
        {**origin(), "torch": "1.0"},
        {**origin(), "opencv": "1.0"},
    ]
    assert [untrained.read(str(tmp_path), other, 2) for other in others] == [None] * len(others)
    assert len({untrained.location("w", each) for each in [origin(), *others]}) == 1 + len(others)
    assert origin(ModelSpec("hrformer_tiny", "mlp4", 64, threshold=0.3)) == origin()  # the untrained one has its own


def damage(document: dict[str, Any], kind: str) -> Any:
    scores = document["scores"]
    match kind:
        case "number":
            scores["f1"][0] = 0.5
        case "range":
            scores["f1"][0] = 1.5
        case "kind":
            scores["pixels"][0] = 1.5
        case "lacking":
            del scores["iou"]
        case "unknown":
            scores["brier"] = [0.5, 0.5]
        case "shorter":
            document["scores"] = {name: values[:1] for name, values in scores.items()}
        case "another":
            document["made_from"]["seed"] = 4
        case "list":
            return [document]
    return document


@pytest.mark.parametrize(
    "kind", ["number", "range", "kind", "lacking", "unknown", "shorter", "another", "list", "cut", "bytes"]
)
def test_a_damaged_file_is_named_and_not_believed(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained.write(str(tmp_path), origin(), SCORES)
    file = Path(untrained.location(str(tmp_path), origin()))
    text = file.read_bytes()
    damaged = {"cut": text[:-40], "bytes": b"\xff" + text}.get(kind)
    file.write_bytes(damaged or json.dumps(damage(json.loads(text), kind)).encode())
    assert untrained.read(str(tmp_path), origin(), 2) is None
    said = capsys.readouterr().err
    assert f"{file} is damaged (" in said
    assert "the untrained network is scored anew" in said
    untrained.write(str(tmp_path), origin(), SCORES)
    assert untrained.read(str(tmp_path), origin(), 2) == SCORES


def test_scores_of_fewer_samples_are_not_those_of_the_split(tmp_path: Path) -> None:
    untrained.write(str(tmp_path), origin(), SCORES[:1])
    assert untrained.read(str(tmp_path), origin(), 2) is None
