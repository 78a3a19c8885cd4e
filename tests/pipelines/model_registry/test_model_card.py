"""The model card says what is known, and where something is not known, that it is not."""

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
    assert "| aaaaaaaaaaaa test | 7 forged, 3 authentic | 0.512 | 0.100 | none | 0.250 |" in card
    assert "  - F1 under degradations: jpeg70 0.400, half_size none" in card
    assert "  - doubt: the test images were trained on" in card
    assert f"- data: `{'ab' * 32}` at /data/a" in card
    assert card.rstrip().endswith("## Licence of the weights\n\nMIT")


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
