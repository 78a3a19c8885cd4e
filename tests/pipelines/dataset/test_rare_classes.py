"""Rare-class sampling: the probabilities of classes, and the rows that are drawn for them."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from pipelines.config.root import Config
from pipelines.dataset import reader
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.rare_classes import ClassRows, chances, shares


def test_the_rarer_a_class_is_the_more_often_it_is_drawn() -> None:
    of_classes = np.array([0.9, 0.07, 0.03])
    assert chances(of_classes, 0.01).tolist() == pytest.approx([0, 0.017986, 0.982014], abs=1e-6)
    assert chances(of_classes, 0.1).tolist() == pytest.approx([0.0001, 0.401272, 0.598628], abs=1e-5)
    assert chances(np.array([0.5, 0.5, 0.0]), 0.01).tolist() == [0.5, 0.5, 0]


def test_shares_are_those_of_the_training_split() -> None:
    manifest = cast(Manifest, SimpleNamespace(splits={"train": SimpleNamespace(by_class=[75, 20, 5])}))
    assert shares(manifest).tolist() == [0.75, 0.2, 0.05]


def test_rows_of_a_rare_class_are_drawn_more_often(built: Config) -> None:
    """At a low temperature nearly every sample has forged pixels; the same seed draws the same rows."""
    uri = str(built.build.output)
    manifest = Manifest.read(uri)
    forged = np.array(reader.columns(uri, manifest, ("forged_pixels",), "train")["forged_pixels"].to_pylist()) > 0
    assert 0 < forged.mean() < 1
    rows = ClassRows(uri, manifest, 0.01)
    drawn = rows.drawn(200, np.random.default_rng(3))
    assert forged[drawn].all()
    assert (np.diff(drawn) >= 0).all()
    assert np.array_equal(drawn, rows.drawn(200, np.random.default_rng(3)))
    even = ClassRows(uri, manifest, 1e6).drawn(400, np.random.default_rng(3))
    assert 0.5 < forged[even].mean() < 1
    assert set(even) <= set(range(len(forged)))
