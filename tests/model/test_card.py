"""A card outlives the way into a model directory and back, as the document that the README of formats describes."""

import json
from pathlib import Path

from support import tiny

from mpc_model.card import DOCUMENT, TENSORS, Card
from mpc_model.localizer import Localizer

CARD: Card = {
    "stage": "finetune",
    "trained_on": [{"uri": "/data", "fingerprint": "ab" * 32}],
    "dataset_fingerprint": "ab" * 32,
    "step": 7,
    "epoch": 2,
    "validation": {"f1": 0.5},
    "published": {"file": "x.pth", "sha256": "cd" * 32, "kind": "stage-1", "fresh": ["decoder.a"], "ignored": []},
}


def test_the_card_is_in_the_document_of_the_directory(tmp_path: Path) -> None:
    model = tiny()
    model.card = CARD
    model.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {TENSORS, DOCUMENT}
    assert json.loads((tmp_path / DOCUMENT).read_text())["card"] == CARD
    assert Localizer.load(tmp_path).card == CARD


def test_keys_of_others_survive(tmp_path: Path) -> None:
    model = tiny()
    model.card = Card(**CARD | {"note": "ours"})  # type: ignore[typeddict-item]
    model.save(tmp_path)
    assert Localizer.load(tmp_path).card["note"] == "ours"  # type: ignore[typeddict-item]
