"""What a terminal shows of an evaluation, with what was measured and without."""

import pytest

from pipelines.artifacts.evaluation import EvaluationMetrics
from pipelines.inference import evaluation_table

NOTHING = {"f1": None, "iou": None, "precision": None, "recall": None}


def metrics(**changes: object) -> EvaluationMetrics:
    summary = {"f1": 0.5, "iou": 0.25, "precision": 0.5, "recall": 0.5, "best_f1": 0.625, "false_alarm_rate": 0.125}
    document = {
        "model": {**summary, "forged_images": 1, "authentic_images": 1},
        **{name: {**summary, "f1": 0.375} for name in ("untrained", "everything_forged")},
        "f1_by_kind": {"splice": 0.5},
        "robustness": {"jpeg70": {"f1": 0.4375}},
        "threshold": 0.5,
        "precision": "fp32",
        "against_fp32": None,
        "dataset": "/data/columbia",
        "split": "test",
        "fingerprint": "f" * 64,
        "warnings": ["7 of 8 images are in the data it was trained on"],
    }
    return {**document, **changes}  # type: ignore[typeddict-item]


def test_an_evaluation_of_an_earlier_version_has_a_table() -> None:
    lines = evaluation_table.table(metrics())
    text = "\n".join(lines)
    assert lines[0] == "columbia/test (ffffffffffff): 1 forged and 1 authentic images, threshold 0.5"
    assert "the same network, untrained  0.375" in text
    assert "* oracles" in text
    assert "F1 by kind: splice 0.500" in text
    assert "F1 degraded: jpeg70 0.438" in text
    assert lines[-1] == "F1 0.500, IoU 0.250 (mean over 1 forged images, threshold 0.5)"
    last = evaluation_table.table(metrics(threshold=59.5 / 255))[-1]
    assert last == "F1 0.500, IoU 0.250 (mean over 1 forged images, threshold 0.2333)"


def test_intervals_leads_images_and_slices_are_shown_where_they_were_measured() -> None:
    slices = [{"by": "kind", "value": f"k{n}", "images": 30, "f1": n / 10, "low": 0.0, "high": 1.0} for n in range(7)]
    level = {"score": "map", "auc": 0.75, "balanced_accuracy": None, "eer": 0.25, "false_alarms": 0.5}
    text = "\n".join(
        evaluation_table.table(
            metrics(
                name="coverage/test",
                model={**metrics()["model"], "forged_images": 10},
                intervals={"f1": {"low": 0.4, "high": 0.6}, "image_auc": {"low": 0.7, "high": 0.8}},
                against={
                    "untrained": {"difference": 0.125, "low": 0.1, "high": 0.15},
                    "everything_forged": {"difference": 0.125, "low": -0.1, "high": 0.3},
                },
                image_level={**level, "threshold": 0.5, "advised_threshold": 0.625},
                calibration={"ece": 0.25, "bins": []},
                slices=slices,
                robustness_area=0.375,
                robustness_curves=[{"family": "jpeg", "names": [], "strengths": [], "f1": [], "area": 0.375}],
            )
        )
    )
    for line in (
        "coverage/test (ffffffffffff)",
        "95% intervals: F1 0.400 to 0.600",
        "against the same network, untrained: F1 +0.125 (+0.100 to +0.150): better",
        "against everything forged: F1 +0.125 (-0.100 to +0.300): no difference is shown",
        "images, called forged above 0.5: AUC 0.750 (0.700 to 0.800), EER 0.250, false alarms 0.500",
        "advised threshold of an image's score: 0.625",
        "calibration: expected error 0.250",
        "area under the robustness curves: 0.375 (jpeg 0.375)",
        "kind: k0 ",
        "kind: k4 ",
    ):
        assert line in text
    assert "kind: k5" not in text


def test_few_images_show_nothing() -> None:
    lead = {"untrained": {"difference": 0.125, "low": 0.1, "high": 0.15}}
    text = "\n".join(evaluation_table.table(metrics(against=lead)))
    assert "against the same network, untrained: F1 +0.125 (+0.100 to +0.150): too few images to tell (1, 10 at" in text


@pytest.mark.parametrize(
    ("false_alarms", "line"),
    [
        (0.125, "no F1, since no forged image is scored; false alarms 0.1250 of the pixels (mean over 1 authentic"),
        (None, "no F1 and no false alarms: every pixel of the split is ignored"),
    ],
)
def test_what_is_not_defined_is_said(false_alarms: float | None, line: str) -> None:
    model = {**NOTHING, "false_alarm_rate": false_alarms, "forged_images": 0, "authentic_images": 1}
    document = metrics(model=model, untrained=model, everything_forged=model, f1_by_kind={}, robustness={})
    assert evaluation_table.table(document)[-1].startswith(line)


def test_what_speaks_against_the_metrics_comes_last(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation_table.say(metrics(shortcuts=["The size of the image alone tells"]), "/out")
    *_, place, warning, shortcut = capsys.readouterr().err.splitlines()
    assert place == "evaluate: look at /out/report.html"
    assert warning == "evaluate: warning: 7 of 8 images are in the data it was trained on"
    assert shortcut == "evaluate: warning: The size of the image alone tells"
