"""The parts of an evaluation's page: every number that was measured is there, and said as what it is."""

import evaluated
import numpy as np
import pytest
from html_page import Page

from pipelines.pages import sections

OPTIONAL = (
    *("name", "intervals", "constant_map", "against", "image_level", "calibration", "slices", "robustness_curves"),
    *("robustness_area", "shortcuts"),
)


def text_of(*parts: str) -> str:
    return Page("".join(parts)).text


def test_all_that_was_measured_is_there() -> None:
    counts = {"splice": np.arange(sections.F1_BINS)}
    text = text_of(*sections.sections(evaluated.metrics(), counts))
    for expected in (
        "pixel F10.61000.5500 to 0.67000.25000.25000.2500",
        "an oracle: the threshold is chosen on each image with its mask",
        "untrained network+0.3600+0.3000 to +0.4200better",
        "everything forged+0.0200-0.0100 to +0.0500no difference is shown",
        "best constant map-0.0400-0.0600 to -0.0200worse",
        "image AUC0.81230.5500 to 0.6700",
        "Both kinds of error are equal at 0.43",
        "Expected calibration error 0.0712",
        "100,000 pixels of 0.4 to 0.5",
        "forged areaup to 1%120.21000.1100 to 0.2900",
        "F1 left on average over all families: 0.4667",
        "F1, jpeg_50: 0.21",
        "screenshot0.25000.1500",
        "remove-",
        "2 test images were trained on",
        "take crops of one size",
    ):
        assert expected in text, expected


def test_how_the_threshold_was_chosen_is_said() -> None:
    choice = {"rule": "best_f1", "value": 0.45, "dataset": "s3://b/d", "fingerprint": "ab" * 32, "split": "validation"}
    text = text_of(sections.identity(evaluated.metrics(chosen_threshold={**choice, "images": 1200})))
    assert "chosen by the rule best_f1 on 1,200 images of split validation of s3://b/d" in text


def test_slices_come_worst_first() -> None:
    text = text_of(sections.slices(evaluated.metrics()["slices"]))
    assert text.index("up to 1%") < text.index("scans") < text.index("splice")


def test_warnings_are_in_red_and_shortcuts_are_not() -> None:
    tags = Page(sections.warnings(["leak"], ["shortcut"])).tags
    assert [attrs["class"] for tag, attrs in tags if tag == "div"] == ["first bad", "first "]
    assert sections.warnings([], []) == ""


def test_an_evaluation_of_an_earlier_version_has_a_page() -> None:
    metrics = evaluated.metrics(warnings=[])
    earlier = {key: value for key, value in metrics.items() if key not in OPTIONAL}
    earlier["model"] = {name: value for name, value in metrics["model"].items() if name in ("f1", "iou")}
    text = text_of(*sections.sections(earlier, {}))
    assert "pixel F10.61000.25000.2500" in text
    for absent in ("Slices", "Calibration", "Image-level", "Against", "interval", "constant map"):
        assert absent not in text
    assert sections.set_name(earlier) == "dataset/test"


def test_authentic_images_alone_have_false_alarms() -> None:
    summary = {"f1": None, "iou": None, "false_alarm_rate": 0.02, "forged_images": 0.0, "authentic_images": 9.0}
    text = text_of(*sections.sections(evaluated.metrics(model=summary), {}))
    assert "false alarms0.0200" in text
    assert "pixel F1" not in text


def test_one_line_a_set() -> None:
    other = evaluated.metrics(image_level=None)
    text = text_of(sections.sets_table({"a": evaluated.metrics(), "b<": other}))
    assert "a400.61000.5500 to 0.67000.25000.61000.61000.01200.8123" in text
    assert text.endswith("b<400.61000.5500 to 0.67000.25000.61000.61000.0120-")


@pytest.mark.parametrize(
    ("strengths", "places"), [([100, 90, 50], [0, 10, 50]), ([0, 3, 7], [0, 3, 7]), ([0, 5, 5], [0, 1, 2]), ([1], [0])]
)
def test_strengths_stand_in_proportion_from_the_weakest(strengths: list[float], places: list[float]) -> None:
    assert sections._places(strengths) == places


def test_secrets_are_not_shown() -> None:
    text = text_of(
        *sections.sections(evaluated.metrics(dataset="s3://key:secret@bucket/x", warnings=["s3://k:s@b/x"]), {})
    )
    assert "secret" not in text
    assert "k:s" not in text
