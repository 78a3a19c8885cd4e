"""Metrics that versions carry: of a model of one class, better than every baseline, and of one of several."""

from pipelines.artifacts.evaluation import BASELINES
from pipelines.model_registry.version_metrics import ClassVersionMetrics, VersionMetrics

ABOVE = {"difference": 0.2, "low": 0.1, "high": 0.3}
METRICS = VersionMetrics(
    model="m",
    fingerprint="a" * 64,
    split="test",
    dataset="/data",
    f1=0.5,
    iou=0.4,
    false_alarm_rate=0.1,
    forged_images=20,
    authentic_images=3,
    untrained=0.2,
    threshold=0.5,
    robustness={},
    warnings=[],
    set_name="coverage/test",
    against=dict.fromkeys(BASELINES, ABOVE),  # type: ignore[arg-type]
)
CLASSES = ClassVersionMetrics(
    model="m",
    fingerprint="a" * 64,
    split="test",
    dataset="/data",
    foreground_dice=0.5,
    mean_iou=0.4,
    untrained=0.1,
    by_class={},
    pixels=9,
    volume_dice=None,
    volume_hd95=None,
    robustness={},
    warnings=[],
    most_frequent=0.0,
)
