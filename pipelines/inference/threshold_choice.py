"""A threshold that follows from a split by a rule, and the model with it."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mpc_model.card import Card, ChosenThreshold
from mpc_model.errors import DataError
from mpc_model.evaluation.histogram import LEVELS
from mpc_model.evaluation.threshold import RULES
from mpc_model.localizer import Localizer
from pipelines.artifacts.evaluation import EvaluationMetrics
from pipelines.config.model_registry import EvaluateConfig
from pipelines.inference import score_store
from pipelines.runtime import layout, storage, uris


def chosen(files: Mapping[int, str], settings: EvaluateConfig, fingerprint: str) -> ChosenThreshold:
    """The threshold that `evaluate.threshold` chooses from the stored histograms. DataError where the images that the
    rule needs are missing, or no threshold calls any pixel forged."""
    rule, images = RULES[settings.threshold](settings.threshold_false_alarms), 0
    for table in score_store.read(files, ("histogram",)):
        for histogram in table["histogram"].to_pylist():
            rule.add(np.frombuffer(histogram, "<u4").reshape(2, LEVELS).astype(np.int64))
            images += 1
    value = rule.result()
    if value >= 1:
        raise DataError(
            f"evaluate.threshold: {settings.threshold} calls no pixel forged at any threshold below 1; take another"
            " rule"
        )
    choice: ChosenThreshold = {
        "rule": settings.threshold,
        "value": value,
        "dataset": str(settings.dataset),
        "fingerprint": fingerprint,
        "split": settings.split,
        "images": images,
    }
    return choice | {"at_most": settings.threshold_false_alarms} if settings.threshold == "false_alarms" else choice


def write(output: str, model: Localizer, choice: ChosenThreshold, metrics: EvaluationMetrics) -> str:
    """Write the model with the chosen threshold below an output, and return its location. Its card says how it was
    chosen, and the advised threshold of an image's score, where there is one."""
    card: Card = {**model.card, "chosen_threshold": choice}
    level = metrics.get("image_level")
    if level and level["score"] == "map" and level["advised_threshold"] is not None:
        card["image_threshold"] = level["advised_threshold"]
    spec, location = model.spec, layout.model_of(output)
    model.spec = replace(spec, threshold=choice["value"])
    try:
        files = model.packed(card)
    finally:
        model.spec = spec
    for name, content in files.items():  # model.json, which makes a folder one, comes last
        storage.write_bytes(uris.join(location, name), content)
    return location
