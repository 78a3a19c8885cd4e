"""The pipeline against a real S3 server: photographs, dataset, checkpoints, models and maps, all of it in a bucket."""

from pathlib import Path

import pandas as pd
from restarted_ray import restarted_ray

from mpc_model.imaging import codecs
from pipelines.artifacts import checkpoint
from pipelines.build import build
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from pipelines.predict import predict
from pipelines.pretrain import pretrain
from pipelines.register import register
from pipelines.runtime import storage


def test_build_to_predict_in_a_bucket(swift: str, photos: Path, settings: list[str], tmp_path: Path) -> None:
    for file in photos.iterdir():
        storage.write_bytes(f"{swift}/photos/{file.name}", file.read_bytes())
    config = recipe.load(
        None,
        [
            *settings,
            f"workspace={swift}/run",
            f"build.sources.0.location={swift}/photos",
            f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}",
            f"predict.input={swift}/photos",
            "predict.model=models:/mpc-localizer@candidate",
        ],
    )
    with restarted_ray():
        _runs_in_the_bucket(config, swift)


def _runs_in_the_bucket(config: Config, swift: str) -> None:
    dataset = build(config)
    assert Manifest.read(f"{swift}/run/dataset") == dataset
    trained = pretrain(config)
    assert checkpoint.steps(f"{swift}/run/pretrain") == [trained["step"]]
    finetune(config)
    evaluate(config)
    registered = register(config)
    assert registered["uri"] == "models:/mpc-localizer@candidate"
    (listed,) = (file for file in storage.list_files(f"{swift}/run") if file.endswith("/requirements.txt"))
    assert b"\nboto3==" in storage.read_bytes(listed)  # the consumer's MLflow reads the entry with it
    assert predict(config)["images"] == 6
    table = pd.read_csv(pd.io.common.BytesIO(storage.read_bytes(f"{swift}/run/predict/scores.csv")))
    for row in table.to_dict("records"):
        assert codecs.decode_image(storage.read_bytes(str(row["map"])), "map").shape[:2] == (
            row["height"],
            row["width"],
        )
    before = storage.list_files(f"{swift}/run")
    build(config), pretrain(config), finetune(config), predict(config)
    assert storage.list_files(f"{swift}/run") == before
