"""A worker of `mpc evaluate`: its scores are those of the model on the stored pixels, and travel as JSON unchanged."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support import tiny

from mpc_model.errors import DataError
from mpc_model.evaluation.metrics import pixel_scores
from mpc_model.imaging.degradations import degradation
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.inference import score_store
from pipelines.inference.gallery import CANDIDATES
from pipelines.inference.scorer import METHODS, SCHEMA, ScoredImage, Scorer, unpacked
from pipelines.inference.split_scorer import Scope, ScoreJob, decode_row


@pytest.fixture
def scorer(built: Config, tmp_path: Path) -> Scorer:
    """A worker for the training split."""
    tiny().save(tmp_path / "model")
    return scorer_of(built, str(tmp_path / "model"))


def scores_of(scorer: Scorer, *groups: int) -> list[ScoredImage]:
    return list(scorer.score(groups))


def scorer_of(built: Config, model: str, scope: Scope | None = None, **settings: Any) -> Scorer:
    made = {"split": "train", "robustness": ["jpeg70"], "model": model, "dataset": str(built.build.output), **settings}
    manifest = Manifest.read(str(built.build.output))
    return Scorer(manifest, built.evaluate.model_copy(update=made), seed=3, scope=scope or Scope())


def test_scores_are_those_of_the_stored_pixels(scorer: Scorer, built: Config) -> None:
    images = scores_of(scorer, 0)
    reader = ShardReader(str(built.build.output), Manifest.read(str(built.build.output)), "train")
    rows = reader.read(0, ("id", "key", "kind", "views"))
    assert [(image.id, image.group, image.row) for image in images] == [
        (row["id"], 0, index) for index, row in enumerate(rows)
    ]
    for image, row in zip(images, rows, strict=True):
        pixels, mask = decode_row(row)
        assert image.scores["model"] == pixel_scores(scorer.model.predict([pixels])[0], mask)
        assert image.scores["everything_forged"] == pixel_scores(np.ones(mask.shape, np.float32), mask)
        assert (image.source, image.height, image.width, image.quality) == ("photos", *mask.shape, None)
        if image.is_forged:
            centre = np.argwhere(mask == 1).mean(0)[::-1] + 0.5
            assert image.centre == pytest.approx(tuple(centre / mask.shape[::-1]))
        else:
            assert image.centre is None
        assert set(image.scores) == set(METHODS)
        assert set(image.degraded) == ({"jpeg70"} if image.is_forged else set())
    assert any(image.is_forged for image in images)
    assert scores_of(scorer, 0) == images == unpacked(scorer.packed(images))


def test_a_crop_is_scored_against_its_part_of_the_mask(scorer: Scorer, built: Config, tmp_path: Path) -> None:
    cropping = scorer_of(built, str(tmp_path / "model"), robustness=["crop0.5", "resize0.5"])
    reader = ShardReader(str(built.build.output), Manifest.read(str(built.build.output)), "train")
    for image, row in zip(scores_of(cropping, 0), reader.read(0, ("id", "key", "kind", "views")), strict=True):
        pixels, mask = decode_row(row)
        for name in image.degraded:
            worse, region = degradation(name)(pixels, np.random.default_rng(list(row["id"].encode())))
            expected = pixel_scores(cropping.model.predict([worse])[0], mask[region])
            assert image.degraded[name] == expected
        assert all(scores.pixels <= mask.size for scores in image.degraded.values())


def test_scores_are_stored_by_whole_row_groups_and_a_failure_is_a_value(
    built: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny().save(tmp_path / "model")
    manifest, output = Manifest.read(str(built.build.output)), str(tmp_path / "out")
    made = {"split": "train", "robustness": [], "model": str(tmp_path / "model"), "output": output}
    settings = built.evaluate.model_copy(update={**made, "dataset": str(built.build.output)})
    work = ScoreJob(Scorer, manifest, settings, 3, Scope(), "k").start("cpu", 1)
    read = ShardReader.read

    def damaged(reader: ShardReader, group: int, *columns: Any) -> Any:
        if group == 1:
            raise DataError(f"row group {group} is damaged")
        return read(reader, group, *columns)

    monkeypatch.setattr(ShardReader, "read", damaged)
    (rows, _), (none, failure) = (work(pa.table({"group": groups})) for groups in ([0], [0, 1]))
    assert len(none) == 0
    assert isinstance(failure, DataError)
    stored = score_store.stored(output, "k", SCHEMA)
    assert stored.equals(rows)
    assert stored["group"].to_pylist() == [0]
    (of_group,) = score_store.read({0: stored["location"][0].as_py()})
    assert unpacked(of_group) == list(scorer_of(built, made["model"], robustness=[]).score([0]))
    assert len(score_store.stored(output, "another", SCHEMA)) == 0


def test_pictures_are_of_all_images_or_of_some_of_each_row_group(scorer: Scorer, built: Config, tmp_path: Path) -> None:
    images = scores_of(scorer, 0, 1)
    assert all(image.files for image in unpacked(scorer.packed(images)))
    few = scorer_of(built, str(tmp_path / "model"), gallery=1)
    pictured = [image for image in unpacked(few.packed(images)) if image.files]
    assert [image.group for image in pictured].count(0) <= CANDIDATES
    forged = [image for image in images if image.group == 0 and image.has_f1]
    best = max(forged, key=lambda image: image.scores["model"].f1)
    assert best.id in {image.id for image in pictured}
    none = scorer_of(built, str(tmp_path / "model"), gallery=0, pictures=0)
    assert not any(image.files for image in unpacked(none.packed(scores_of(none, 0))))


def test_batches_have_the_scores_of_one_image_at_a_time(scorer: Scorer, built: Config, tmp_path: Path) -> None:
    alone = scores_of(scorer, 0, 1)
    batched = scores_of(scorer_of(built, str(tmp_path / "model"), batch_size=8), 0, 1)
    assert [(image.id, image.group, image.row) for image in alone] == [(i.id, i.group, i.row) for i in batched]
    for one, other in zip(alone, batched, strict=True):
        assert one.image_score == pytest.approx(other.image_score, abs=1e-5)
        for scores, together in zip(one.scores.values(), other.scores.values(), strict=True):
            # A pixel at the threshold may be called otherwise: its share is all that rounding can change.
            assert scores.called_fraction == pytest.approx(together.called_fraction, abs=5 / scores.pixels)


def test_the_untrained_network_is_scored_where_it_is_asked_for_alone(
    scorer: Scorer, built: Config, tmp_path: Path
) -> None:
    without = scorer_of(built, str(tmp_path / "model"), Scope(untrained=False))
    assert without.untrained is None
    for image, other in zip(scores_of(scorer, 0), scores_of(without, 0), strict=True):
        assert {name: scores for name, scores in image.scores.items() if name != "untrained"} == other.scores


def test_what_bf16_changes_is_measured_on_the_images_that_are_asked_for(
    scorer: Scorer, built: Config, tmp_path: Path
) -> None:
    exact = scores_of(scorer, 0, 1)
    assert {image.difference for image in exact} == {None}
    rough = scorer_of(built, str(tmp_path / "model"), Scope(compared=frozenset({1})), precision="bf16")
    images = scores_of(rough, 0, 1)
    (compared,) = (image for image in images if image.difference)
    assert (compared.group, compared.is_forged) == (1, True)
    assert compared.difference is not None
    assert 0 < compared.difference.mean < compared.difference.largest < 0.3
    assert compared.difference.scores == exact[images.index(compared)].scores["model"]
