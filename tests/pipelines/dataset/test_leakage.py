"""What a model saw of its test images: by the datasets it names, and by their pictures."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest

from pipelines.build import build
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset import leakage
from pipelines.dataset.manifest import Manifest


def trained_on(*datasets: tuple[str, str]) -> dict[str, Any]:
    """The card of a model that read datasets of these (location, fingerprint)."""
    return {"trained_on": [{"uri": uri, "fingerprint": fingerprint} for uri, fingerprint in datasets]}


def dataset_of(config: Config) -> tuple[str, Manifest]:
    uri = str(config.build.output)
    return uri, Manifest.read(uri)


def one_split(split: str, folder: Path, workspace: Path) -> tuple[str, Manifest]:
    """A dataset of a folder of photographs, two crops of each, all in one split."""
    source = f"{{name: photos, layout: photos, location: {folder}, crop: 64, samples_per_photo: 2, split: {split}}}"
    config = recipe.load(None, [f"workspace={workspace}", f"build.sources=[{source}]", "build.views.count=0"])
    build(config)
    return dataset_of(config)


@pytest.fixture(scope="module")
def sets(photos: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> dict[str, Any]:
    """Training on astronaut and chelsea; tests on others (coffee), and on some of the same: chelsea, smaller and as
    JPEG, beside coffee."""
    root = tmp_path_factory.mktemp("leakage")
    for name in ("train", "apart", "overlap"):
        (root / name).mkdir()
    for name in ("astronaut", "chelsea"):
        shutil.copy(photos / f"{name}.png", root / "train")
    for name in ("apart", "overlap"):
        shutil.copy(photos / "coffee.png", root / name)
    smaller = cv2.resize(cv2.imread(str(photos / "chelsea.png")), (200, 150), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(root / "overlap" / "cat.jpg"), smaller, [cv2.IMWRITE_JPEG_QUALITY, 85])
    splits = {"train": "train", "apart": "test", "overlap": "test"}
    return {name: one_split(split, root / name, root / "work" / name) for name, split in splits.items()}


@pytest.mark.parametrize(("split", "words"), [("train", "trained on split 'train'"), ("validation", "chosen by split")])
def test_the_dataset_of_the_training_itself_is_no_test(built: Config, split: str, words: str) -> None:
    uri, manifest = dataset_of(built)
    (warning,) = leakage.warnings(trained_on((uri, manifest.fingerprint)), uri, manifest, split)
    assert words in warning
    assert "too good" in warning


def test_the_test_split_of_the_training_dataset_is_a_test(built: Config) -> None:
    uri, manifest = dataset_of(built)
    assert leakage.warnings(trained_on((uri, manifest.fingerprint)), uri, manifest, "test") == []
    # Known by its fingerprint, wherever it was then.
    assert leakage.warnings(trained_on(("/long/gone", manifest.fingerprint)), uri, manifest, "test") == []


def test_a_model_that_says_nothing_may_have_seen_everything(built: Config) -> None:
    (warning,) = leakage.warnings({"backbone": "hrformer_tiny"}, *dataset_of(built), "test")
    assert "does not say what it was trained on" in warning


def test_a_model_that_was_trained_on_nothing_has_seen_nothing(built: Config) -> None:
    assert leakage.warnings(trained_on(), *dataset_of(built), "test") == []


def test_a_training_dataset_out_of_reach_is_said(built: Config, tmp_path: Path) -> None:
    (warning,) = leakage.warnings(trained_on((str(tmp_path / "gone"), "0" * 64)), *dataset_of(built), "test")
    assert "it is unknown whether" in warning
    assert str(tmp_path / "gone") in warning


def test_another_dataset_where_the_training_was_is_said(built: Config, sets: dict[str, Any]) -> None:
    (warning,) = leakage.warnings(trained_on((sets["train"][0], "0" * 64)), *dataset_of(built), "test")
    assert "it is unknown whether" in warning
    assert "another dataset is at this location" in warning


def test_pictures_that_both_have_are_counted_and_named(sets: dict[str, Any]) -> None:
    """Two crops of one photograph of two: found smaller and as JPEG, by the photograph and not by the crops."""
    card = trained_on((sets["train"][0], sets["train"][1].fingerprint))
    (warning,) = leakage.warnings(card, *sets["overlap"], "test")
    assert warning.startswith("2 of 4 images are in the data it was trained on")
    assert sets["train"][0] in warning
    assert "photos/cat.jpg#000" in warning
    assert "photos/chelsea.png#000" in warning
    assert leakage.warnings(card, *sets["apart"], "test") == []


def test_every_dataset_of_the_training_counts(sets: dict[str, Any], tmp_path: Path) -> None:
    uri, train = sets["train"]
    card = trained_on((str(tmp_path), "0" * 64), (uri, train.fingerprint))
    first, second = leakage.warnings(card, *sets["overlap"], "test")
    assert "it is unknown whether" in first
    assert "2 of 4" in second


def test_what_two_datasets_share_comes_in_pairs(sets: dict[str, Any]) -> None:
    ours, theirs = leakage.shared(*sets["overlap"], sets["train"][0])
    assert ours.schema.names == ["key", "split", "photo_hash", "photo_hash_fine"]
    assert {key.split("#")[0] for key in ours["key"].to_pylist()} == {"photos/cat.jpg"}
    assert {key.split("#")[0] for key in theirs["key"].to_pylist()} == {"photos/chelsea.png"}
    for one, other, bits in zip(
        *(table["photo_hash"].to_pylist() for table in (ours, theirs)), theirs["bits"].to_pylist(), strict=True
    ):
        assert (one ^ other).bit_count() == bits <= 4
    assert set(ours["split"].to_pylist()) == {"test"}
    assert set(theirs["split"].to_pylist()) == {"train"}
    none, _ = leakage.shared(*sets["overlap"], sets["train"][0], "test", ("validation",))
    assert len(none) == 0
    itself, _ = leakage.shared(*sets["apart"], sets["apart"][0])
    assert len(itself) == sets["apart"][1].splits["test"].samples == 2


def test_images_that_the_threshold_was_chosen_on_are_no_test(sets: dict[str, Any]) -> None:
    def card(name: str, split: str, *others: tuple[str, str]) -> Any:
        uri, manifest = sets[name]
        chosen = {"rule": "best_f1", "dataset": uri, "fingerprint": manifest.fingerprint, "split": split}
        return {**trained_on(*others), "chosen_threshold": chosen}

    overlap, apart = sets["overlap"], sets["apart"]
    (same,) = leakage.warnings(card("overlap", "test"), *overlap, "test")
    assert same.startswith("the threshold of the model was chosen on split 'test' of this very dataset")
    assert leakage.warnings(card("overlap", "validation"), *overlap, "test") == []
    (shared,) = leakage.warnings(card("train", "train"), *overlap, "test")
    assert "images are in the data that the threshold of the model was chosen on" in shared
    assert leakage.warnings(card("train", "train"), *apart, "test") == []
    train = sets["train"][0], sets["train"][1].fingerprint
    (once,) = leakage.warnings(card("train", "train", train), *overlap, "test")
    assert "it was trained on or chosen by" in once
