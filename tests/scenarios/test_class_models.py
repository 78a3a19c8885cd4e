"""A model of several classes from its training to its promotion, and what refuses a model of other classes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import indexed_images
import numpy as np
import pytest
from indexed_images import CLASSES
from support import tiny

from mpc_model.errors import UserError
from mpc_model.evaluation import class_metrics
from mpc_model.imaging.degradations import degradation
from mpc_model.localizer import Localizer
from pipelines import commands
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.evaluate import evaluate
from pipelines.finetune import Finetuning, finetune
from pipelines.inference.split_scorer import decode_row
from pipelines.model_registry import version_metrics
from pipelines.predict import predict
from pipelines.promote import promote
from pipelines.register import register
from pipelines.tracking import client

SPACING = [10.0, 1.5, 1.5]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a model of three classes, trained for two epochs; tests must not change its outputs."""
    workspace = tmp_path_factory.mktemp("several")
    source = indexed_images.source(indexed_images.write(workspace / "images"))
    indexed_images.built(workspace, source)
    config = recipe.revised(
        indexed_images.config(workspace, source),
        "model={backbone: hrformer_tiny, head: mlp4, input_size: 32, classes: 3}",
        "train={workers: 0, batch_size: 4, validation_images: 6, pictures_every: 2}",
        "finetune={start: scratch, unfreeze: all, epochs: 2, learning_rate: 1.0e-2, loss: cross_entropy}",
        f"evaluate={{volumes: 'patient\\d+', spacing: {SPACING}, robustness: [light, crop0.5]}}",
    )
    finetune(config)
    return config


@pytest.fixture(scope="module")
def other(trained: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The same config with another model, whose maps have all classes, as they would after a longer training."""
    model = tiny(32, names=tuple(CLASSES))
    model.card = model_of(trained).card
    model.save(folder := tmp_path_factory.mktemp("other"))
    return recipe.revised(trained, f"evaluate.model={folder}", f"register.model={folder}")


@pytest.fixture(scope="module")
def metrics(other: Config) -> dict[str, Any]:
    return dict(evaluate(other))


def model_of(config: Config) -> Localizer:
    return Localizer.load(Path(str(config.finetune.output), "model"))


def test_training_takes_the_names_of_the_dataset_and_the_best_epoch_by_dice(trained: Config) -> None:
    spec = model_of(trained).spec
    assert (spec.classes, spec.class_names) == (3, tuple(CLASSES))
    record = json.loads(Path(str(trained.finetune.output), "record.json").read_text())
    history = record["results"]["history"]
    dices = [epoch["dataset_level.foreground_dice"] for epoch in history]
    steps = record["results"]["step"] // 2
    assert record["results"]["best"] == [steps * (1 + int(np.argmax(dices)))]
    assert all(0 <= epoch[f"dataset_level.{name}"] <= 1 for epoch in history for name in ("mean_iou", "accuracy"))
    assert record["identity"]["model"]["classes"] == 3
    pictures = list(Path(str(trained.finetune.output), "pictures").iterdir())
    assert pictures
    assert cv2.imread(str(pictures[0])) is not None


def test_an_evaluation_counts_the_pixels_of_all_images_by_class(
    trained: Config, other: Config, metrics: dict[str, Any]
) -> None:
    model, manifest = Localizer.load(str(other.evaluate.model)), Manifest.read(str(trained.train.dataset))
    reader = ShardReader(str(trained.train.dataset), manifest, "test")
    rows = [row for group in range(len(reader.sizes)) for row in reader.read(group, ("id", "key", "views"))]
    matrix, volumes = np.zeros((3, 3), np.int64), dict[str, list[tuple[np.ndarray, np.ndarray]]]()
    cropped = np.zeros((3, 3), np.int64)
    for row in sorted(rows, key=lambda row: row["key"]):
        image, mask = decode_row(row, indexed=True)
        labels = model.predict([image])[0].argmax(0).astype(np.uint8)
        matrix += class_metrics.confusion(labels, mask, 3)
        part, region = degradation("crop0.5")(image, np.random.default_rng(list(row["id"].encode())))
        cropped += class_metrics.confusion(model.predict([part])[0].argmax(0).astype(np.uint8), mask[region], 3)
        volumes.setdefault(row["key"].split("/")[1].split("_")[0], []).append((labels, mask))
    expected = class_metrics.dataset_level(matrix, CLASSES)
    assert metrics["model"]["dataset_level"] == pytest.approx(expected)
    scores = [class_metrics.volume_scores(*map(np.stack, zip(*v, strict=True)), 3, SPACING) for v in volumes.values()]
    of_volumes = metrics["model"]["per_volume"]
    assert set(expected) == set(metrics["model"]["dataset_level"])
    assert of_volumes["volumes"] == len(volumes)
    assert of_volumes["mean_hd95"] == pytest.approx(class_metrics.of_volumes(scores, CLASSES)["mean_hd95"])
    assert set(metrics["robustness"]) == {"jpeg70", "half_size", "crop0.5"}
    of_crops = metrics["robustness"]["crop0.5"]["dataset_level"]
    assert of_crops == pytest.approx(class_metrics.dataset_level(cropped, CLASSES))
    assert metrics["classes"] == CLASSES
    for of_one_class in ("f1_by_kind", "threshold", "everything_forged"):
        assert of_one_class not in metrics
    images = json.loads(Path(str(other.evaluate.output), "images.json").read_text())
    assert [image["key"] for image in images] == [row["key"] for row in rows]
    assert cv2.imread(metrics["pictures"][0]) is not None


def test_its_metrics_have_names_that_mlflow_takes(metrics: dict[str, Any]) -> None:
    of_result = commands.COMMANDS["evaluate"].metrics
    assert of_result
    flat = of_result(metrics)
    assert flat["dataset_level.mean_iou"] == metrics["model"]["dataset_level"]["mean_iou"]
    assert flat["by_class.background.dice"] == metrics["model"]["by_class"]["background"]["dice"]
    assert flat["per_volume.mean_dice"] == metrics["model"]["per_volume"]["mean_dice"]
    assert "f1" not in flat


def test_an_evaluation_is_reused_and_another_pattern_is_another_one(other: Config, metrics: dict[str, Any]) -> None:
    assert evaluate(other) == metrics
    with pytest.raises(UserError, match="volumes differs"):
        evaluate(recipe.revised(other, "evaluate.volumes=slice"))


def test_prediction_writes_class_maps(trained: Config, tmp_path: Path) -> None:
    stem = indexed_images.STEMS[0]
    cv2.imwrite(str(tmp_path / f"{stem}.png"), indexed_images.image_of(stem)[..., ::-1])
    model = f"predict.model={trained.finetune.output}/model"
    output = f"predict.output={tmp_path / 'out'}"
    predict(recipe.revised(trained, f"predict.input={tmp_path / (stem + '.png')}", model, output))
    labels = model_of(trained).predict([indexed_images.image_of(stem)])[0].argmax(0)
    written = cv2.imread(str(tmp_path / "out" / "maps" / f"{stem}.png.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(written, labels)
    header, row = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert header == "image,map,height,width,share_background,share_left,share_right,error,note,model,version,alias"
    assert float(row.split(",")[5]) == pytest.approx((labels == 1).mean())


def test_a_version_carries_them_and_is_promoted_by_them(other: Config, metrics: dict[str, Any]) -> None:
    made = register(other)
    version = client.client(other).get_model_version(made["name"], made["version"])
    ((key, measured),) = version_metrics.from_tags(version.tags).items()
    assert key == (metrics["fingerprint"], "test", "fp32, by class")
    assert measured.foreground_dice == metrics["model"]["dataset_level"]["foreground_dice"]
    assert measured.volume_hd95 == metrics["model"]["per_volume"]["mean_hd95"]
    assert "Classes, from 0 on: background, left, right." in version.description
    assert promote(recipe.revised(other, "promote.robustness_floor=0.0"))["version"] == made["version"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("model.classes=1",), r"has 3 classes \(background, left, right\), but model\.classes .*set model\.classes=3"),
        (("model.classes=4",), r"but model\.classes has 4; set model\.classes=3"),
        (("model.class_names=[a, b, c]",), r"but those of model\.classes are a, b, c; set model\.classes=3"),
        (("finetune.loss=dice",), "unknown stage-2 loss 'dice'"),
        (("finetune.part_weights.mask=0.0",), r"finetune\.part_weights\.mask is 0"),
    ],
)
def test_a_training_that_does_not_fit_is_refused(
    trained: Config, overrides: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        finetune(recipe.revised(trained, *overrides, f"finetune.output={tmp_path / 'out'}"))
    assert not (tmp_path / "out").exists()


def test_a_localizer_of_other_classes_is_no_start_and_no_model_for_the_dataset(trained: Config, tmp_path: Path) -> None:
    tiny(32).save(tmp_path / "one")
    start = (f"finetune.encoder={tmp_path / 'one'}", "finetune.start=localizer")
    with pytest.raises(UserError, match=r"has 1 classes, the config asks for 3; set model\.classes"):
        Finetuning(recipe.revised(trained, *start))
    other = Localizer.load(f"{trained.finetune.output}/model")
    other.spec = dataclasses.replace(other.spec, class_names=other.spec.class_names[::-1])
    other.save(tmp_path / "reversed")
    with pytest.raises(UserError, match=r"has the classes .*, the dataset has .*; set finetune\.start=encoder"):
        Finetuning(
            recipe.revised(trained, f"finetune.encoder={tmp_path / 'reversed'}", start[1], "finetune.unfreeze=all")
        )
    config = recipe.revised(trained, f"evaluate.model={tmp_path / 'one'}", f"evaluate.output={tmp_path / 'out'}")
    with pytest.raises(UserError, match=r"evaluate\.volumes is for models of several classes"):
        evaluate(config)
    with pytest.raises(UserError, match="gives the probability of forgery alone; evaluate it on a dataset"):
        evaluate(recipe.revised(config, "evaluate.volumes=null", "evaluate.spacing=[1.0, 1.0, 1.0]"))
