"""The model card says what is known, and where something is not known, that it is not."""

import dataclasses
from typing import Any

import pytest
from support import tiny

from pipelines.model_registry import lineage, model_card
from pipelines.model_registry.version_metrics import ClassVersionMetrics, VersionMetrics

TAGS = {
    lineage.MODEL: "d" * 64,
    lineage.TRAINED_ON: '[{"uri": "/data/a", "fingerprint": "' + "ab" * 32 + '"}]',
    lineage.STATUS: lineage.COMPLETE,
    model_card.LICENCE: "MIT",
}
METRICS = VersionMetrics(
    model="d" * 64,
    fingerprint="a" * 64,
    split="test",
    dataset="/data/b",
    f1=0.51234,
    iou=None,
    false_alarm_rate=0.25,
    forged_images=7,
    authentic_images=3,
    untrained=0.1,
    threshold=0.5,
    robustness={"jpeg70": 0.4, "half_size": None},
    warnings=["the test images were trained on"],
)


def test_it_holds_the_model_its_metrics_its_data_and_its_licence() -> None:
    model = tiny()
    card = model_card.write(model, TAGS, [METRICS])
    count = sum(parameter.numel() for parameter in model.parameters())
    assert f"`hrformer_tiny` with head `mlp4`, {count:,} parameters. Images resized to 64 pixels a side go in" in card
    assert "| aaaaaaaaaaaa test | 7 forged, 3 authentic | 0.512 | 0.100 | none | none | none | none | 0.250 |" in card
    assert "  - F1 under degradations: jpeg70 0.400, half_size none" in card
    assert "  - doubt: the test images were trained on" in card
    assert f"- data: /data/a (fingerprint `{'ab' * 32}`)" in card
    assert "## Licence of the weights\n\nMIT\n" in card


def test_metrics_stand_with_intervals_beside_the_baselines_and_limits_before_hashes() -> None:
    interval: Any = {"f1": {"low": 0.4, "high": 0.6}, "image_auc": {"low": 0.7, "high": 0.9}}
    weakest: Any = [{"by": "forged area", "value": "below 1%", "images": 9, "f1": 0.05, "low": 0.0, "high": 0.1}]
    lead: Any = {"difference": 0.2, "low": 0.1, "high": 0.3}
    against: Any = {"untrained": lead, "constant_map": lead | {"low": -0.1}}
    measured = dataclasses.replace(
        METRICS,
        **{"set_name": "coverage/test", "intervals": interval, "against": against, "slices": weakest},
        **{"everything_forged": 0.2, "constant_map": 0.25, "image_auc": 0.8, "robustness_area": 0.3},
        shortcuts=["forged images are PNG"],
    )
    card = model_card.write(tiny(), TAGS, [measured])
    row = "| 0.512 (0.400 to 0.600) | 0.100 | 0.200 | 0.250 | none | 0.800 (0.700 to 0.900) | 0.250 |"
    assert f"| coverage/test | 7 forged, 3 authentic {row}" in card
    for line in (
        f"- coverage/test: /data/b, threshold 0.5, fingerprint `{'a' * 64}`",
        "  - with 95% confidence better than the untrained network",
        "  - with 95% confidence NOT better than the best constant map",
        "  - F1 under degradations: jpeg70 0.400, half_size none; mean area under the curves 0.300",
        "  - weakest on: forged area below 1% F1 0.050 (0.000 to 0.100, 9 images)",
        "  - a detector can cheat here, so the metrics may be too good: forged images are PNG",
    ):
        assert f"\n{line}\n" in card
    assert card.index("never proof of forgery") < card.index("d" * 64)


def test_a_model_of_several_classes_has_their_names_and_their_metrics() -> None:
    metrics = ClassVersionMetrics(
        model="d" * 64,
        fingerprint="a" * 64,
        split="test",
        dataset="/data/b",
        foreground_dice=0.8,
        mean_iou=0.7,
        untrained=0.05,
        by_class={"background": 0.99, "left": 0.6, "right": None},
        pixels=1000,
        volume_dice=0.75,
        volume_hd95=4.125,
        robustness={"jpeg70": 0.7},
        warnings=[],
    )
    card = model_card.write(tiny(names=("background", "left", "right")), TAGS, [metrics])
    assert card.startswith("# Localizer of 3 classes\n")
    assert "Classes, from 0 on: background, left, right." in card
    assert "| aaaaaaaaaaaa test | 0.800 | 0.050 | 0.700 | 0.750 | 4.12 |" in card
    assert "IoU on aaaaaaaaaaaa test: background 0.990, left 0.600, right none" in card
    assert "  - Dice under degradations: jpeg70 0.700" in card
    for word in ("forged", "forgery", "Threshold", "threshold"):
        assert word not in card


def test_what_is_not_known_is_said() -> None:
    card = model_card.write(tiny(None), {model_card.LICENCE: model_card.licence(tiny(), None)}, [])
    assert "Images at their own size go in" in card
    assert "None: it was not evaluated when this was written." in card
    assert "- data: unknown, so whether test images are among them is unknown, too" in card
    assert "not stated: ask whoever trained it" in card


@pytest.mark.parametrize(
    ("kind", "stated", "licence"),
    [
        (None, "MIT", "MIT"),
        ("stage-2", None, "CC BY-NC (the public MPC checkpoint that the weights are, or began as)"),
        ("stage-1", "MIT", "MIT; and CC BY-NC (the public MPC checkpoint that the weights are, or began as)"),
        ("other", None, "that of weights.pth"),
    ],
)
def test_public_weights_carry_their_licence(kind: str | None, stated: str | None, licence: str) -> None:
    model = tiny()
    if kind:
        model.card["published"] = {"kind": kind, "file": "weights.pth", "sha256": "c" * 64}
    assert model_card.licence(model, stated) == licence


def test_a_description_is_cut_at_a_line_and_names_the_file() -> None:
    short = "# Card\n"
    assert model_card.description(short) == short
    long = "".join(f"line {number}\n" for number in range(2000))
    description = model_card.description(long)
    assert len(description) <= model_card.DESCRIPTION
    assert description.endswith("\n\nThe rest is in MODEL_CARD.md of the entry.\n")
    assert long.startswith(description.partition("\n\nThe rest")[0] + "\n")
