"""Pairs of a source and a target: which images meet, and that labels of the target go no further."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpc_model.errors import DataError
from pipelines.config.root import Config
from pipelines.dataset.batch import Batch
from pipelines.dataset.loader import PixelLoader
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.order import Cursor, companions
from pipelines.dataset.paired_loader import PairedLoader

OPTIONS: dict[str, Any] = {"input_size": 64, "seed": 5, "batch_size": 4}


def loader(built: Config, target: str, **more: Any) -> PairedLoader:
    return PairedLoader(str(built.build.output), target, **OPTIONS | more)


def meetings(batches: list[Batch]) -> dict[str, bytes]:
    """The image of the target that stands beside each sample of the source."""
    found = {}
    for batch in batches:
        assert batch.second_images is not None
        found |= {name: image.numpy().tobytes() for name, image in zip(batch.ids, batch.second_images, strict=True)}
    return found


def test_the_source_is_that_of_the_plain_loader_and_the_target_has_no_masks(built: Config, target: str) -> None:
    uri = str(built.build.output)
    plain = list(PixelLoader(uri, Manifest.read(uri), "train", **OPTIONS).epoch(Cursor()))
    pairs = list(loader(built, target).epoch(Cursor()))
    assert [batch.ids for batch in pairs] == [batch.ids for batch in plain]
    assert [batch.progress for batch in pairs] == [batch.progress for batch in plain]
    for pair, alone in zip(pairs, plain, strict=True):
        assert torch.equal(pair.images, alone.images)
        assert torch.equal(pair.masks, alone.masks)
        assert pair.second_images is not None
        assert len(pair.second_images) == len(pair.images)
        assert pair.second_masks is None


def test_an_interrupted_epoch_goes_on_with_the_same_pairs(built: Config, target: str) -> None:
    pairs = loader(built, target)
    whole = list(pairs.epoch(Cursor(1)))
    rest = list(pairs.epoch(Cursor(1).advanced(1, 4, 1)))
    assert [batch.ids for batch in rest] == [batch.ids for batch in whole[1:]]
    assert meetings(rest) == meetings(whole[1:])


def test_the_number_of_ranks_changes_no_meeting_and_another_epoch_does(built: Config, target: str) -> None:
    alone = meetings(list(loader(built, target).epoch(Cursor())))
    two = [meetings(list(loader(built, target, rank=rank, world=2).epoch(Cursor()))) for rank in (0, 1)]
    assert two[0] | two[1] == alone
    assert meetings(list(loader(built, target).epoch(Cursor(1)))) != alone


def test_companions_come_once_before_one_comes_again() -> None:
    sizes = np.array([3, 2, 4])
    rows = companions(sizes, 25, fingerprint="ab" * 32, seed=1, epoch=2)
    assert sorted(rows[:9]) == sorted(rows[9:18]) == list(range(9))
    assert rows[:9].tolist() != rows[9:18].tolist()
    assert len(set(rows[18:])) == 7
    again = companions(sizes, 12, fingerprint="ab" * 32, seed=1, epoch=2)
    assert again.tolist() == rows[:12].tolist()  # of a position alone
    others = [
        companions(sizes, 9, fingerprint=f, seed=s, epoch=e)
        for f, s, e in (("cd" * 32, 1, 2), ("ab" * 32, 2, 2), ("ab" * 32, 1, 3))
    ]
    assert len({tuple(one) for one in (rows[:9], *others)}) == 4


def test_rare_classes_change_the_source_alone(built: Config, target: str) -> None:
    batches = list(loader(built, target, rare_classes=0.01).epoch(Cursor()))
    assert all((mask == 1).any() for batch in batches for mask in batch.masks)
    assert sum(len(batch.ids) for batch in batches) == len(loader(built, target))
    again = list(loader(built, target, rare_classes=0.01).epoch(Cursor()))
    assert [batch.ids for batch in again] == [batch.ids for batch in batches]


def test_a_missing_target_is_named(built: Config, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing"):
        loader(built, str(tmp_path / "nothing"))
