"""The card of a model: what its model directory says about where the weights come from.

It is the `card` of model.json, plain JSON. Whoever trains or saves a model may add keys of their own.
"""

from typing import Any, NotRequired, cast

from typing_extensions import TypedDict

TENSORS, DOCUMENT = "model.safetensors", "model.json"
"""The files of a model directory; the document is written last and holds the card."""


class PublishedOrigin(TypedDict):
    """The public checkpoint that the weights are, or began as. `kind` is "stage-1", "stage-2" or "imagenet".

    `fresh` names the tensors that the file lacks and that were initialised, `ignored` those of the file that are not
    part of a localizer.
    """

    file: str
    sha256: str
    kind: str
    fresh: list[str]
    ignored: list[str]


class TrainingDataset(TypedDict):
    """A pixel dataset, by its location and its fingerprint."""

    uri: str
    fingerprint: str


class ChosenThreshold(TypedDict):
    """How the threshold of a model was chosen: by a rule (mpc_model/evaluation/threshold.py) on `images` images of a
    split of a dataset, never of a test split. `at_most` is what the rule false_alarms allowed."""

    rule: str
    value: float
    dataset: str
    fingerprint: str
    split: str
    images: int
    at_most: NotRequired[float]


class Card(TypedDict, total=False):
    """The keys that this project writes and reads. `trained_on` names every dataset that any stage of training read.

    `stage` is the command that trained the model, `step` and `epoch` (counted from 1) say when it was saved,
    `validation` holds the metrics of the last epoch before that; `validated_on` names their dataset where a stage has
    the choice (`adapt.validate_on`). `image_threshold` is the score above which an image is called
    forged, as advised; `chosen_threshold` says how the threshold for pixels was chosen, where it was.
    """

    published: PublishedOrigin
    trained_on: list[TrainingDataset]
    stage: str
    dataset_fingerprint: str
    step: int
    epoch: int
    validation: dict[str, float]
    validated_on: TrainingDataset
    image_threshold: float
    chosen_threshold: ChosenThreshold


def check_card(card: object) -> Card:
    """The card of a model.json that others may have written. ValueError where a key of ours has another form."""
    if not isinstance(card, dict):
        raise ValueError("card is no object")
    published: dict[str, Any] | None = card.get("published")
    trained_on = card.get("trained_on", [])
    if "published" in card and not _has_texts(published, "file", "sha256", "kind"):
        raise ValueError("card.published lacks file, sha256 or kind")
    if not isinstance(trained_on, list) or not all(_has_texts(entry, "uri", "fingerprint") for entry in trained_on):
        raise ValueError("card.trained_on is no list of uri and fingerprint")
    chosen: dict[str, Any] | None = card.get("chosen_threshold")
    if "chosen_threshold" in card and not _has_texts(chosen, "rule", "dataset", "fingerprint", "split"):
        raise ValueError("card.chosen_threshold lacks rule, dataset, fingerprint or split")
    if "image_threshold" in card and not isinstance(card["image_threshold"], int | float):
        raise ValueError("card.image_threshold is no number")
    return cast(Card, card)


def _has_texts(value: object, *names: str) -> bool:
    """Whether a value is an object that has a text under each name."""
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in names)
