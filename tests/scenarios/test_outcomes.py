"""Evaluate, register and predict on a trained model: figures, what the registry serves, maps, and refusals."""

import json
import shutil
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest

from mpc_model.errors import DataError, UserError
from mpc_model.evaluation.metrics import image_score, pixel_scores
from mpc_model.imaging import codecs
from mpc_model.localizer import Localizer
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.evaluate import evaluate
from pipelines.model_registry import gates
from pipelines.predict import predict
from pipelines.register import register
from pipelines.tracking import client


@pytest.fixture(scope="module")
def registered(trained: Config) -> dict[str, str]:
    evaluate(trained)
    return register(trained)


def with_predict(config: Config, folder: Path, **settings: object) -> Config:
    made = {"input": str(folder / "in"), "output": str(folder / "out"), **settings}
    return config.model_copy(update={"predict": config.predict.model_copy(update=made)})


def test_the_figures_are_those_of_the_protocol(trained: Config) -> None:
    found = evaluate(trained)
    dataset = str(trained.build.output)
    reader = ShardReader(dataset, Manifest.read(dataset), "test")
    model = Localizer.load(Path(str(trained.finetune.output), "model"))
    f1, whole = [], []
    for group in range(len(reader.sizes)):
        for row in reader.read(group):
            if row["kind"] == "authentic":
                continue
            view = row["views"][0]
            mask = codecs.decode_mask(view["mask"], "row")
            f1.append(pixel_scores(model.predict([codecs.decode_image(view["image"], "row")])[0], mask).f1)
            whole.append(2 * mask.mean() / (1 + mask.mean()))  # precision = share, recall = 1
    assert found["model"]["f1"] == pytest.approx(np.mean(f1), abs=1e-6)
    assert found["everything_forged"]["f1"] == pytest.approx(np.mean(whole))
    assert found["model"]["forged_images"] == len(f1)
    assert 0 <= found["untrained"]["f1"] <= 1
    listed = json.loads(Path(str(trained.evaluate.output), "images.json").read_text())
    assert len(listed) == Manifest.read(dataset).splits["test"].samples
    sheet = codecs.decode_image(Path(found["pictures"][0]).read_bytes(), "sheet")
    assert sheet.std() > 20


def test_an_encoder_cannot_be_evaluated_or_registered(trained: Config) -> None:
    encoder = str(trained.pretrain.output) + "/model"
    update = {
        "evaluate": trained.evaluate.model_copy(update={"model": encoder}),
        "register_": trained.register_.model_copy(update={"model": encoder}),
    }
    for job in (evaluate, register):
        with pytest.raises(UserError, match=r"without a head.*finetune"):
            job(trained.model_copy(update=update))


def test_the_version_carries_its_lineage_and_the_alias(trained: Config, registered: dict[str, str]) -> None:
    mlflow_client = client.client(trained)
    version = mlflow_client.get_model_version_by_alias(registered["name"], "candidate")
    assert str(version.version) == registered["version"]
    figures = json.loads(Path(str(trained.evaluate.output), "metrics.json").read_text())
    fingerprint = Manifest.read(str(trained.build.output)).fingerprint
    assert gates.from_tags(version.tags)[fingerprint, "test"].f1 == figures["model"]["f1"]
    assert fingerprint in version.tags["mpc.trained_on"]
    assert register(trained)["version"] == registered["version"]  # the same weights are not registered twice


def test_figures_that_come_after_the_version_are_added_to_it(trained: Config, registered: dict[str, str]) -> None:
    mlflow_client = client.client(trained)
    key = f"mpc.figures.{Manifest.read(str(trained.build.output)).fingerprint[:12]}.test"
    mlflow_client.delete_model_version_tag(registered["name"], registered["version"], key)
    register(trained)
    assert key in mlflow_client.get_model_version(registered["name"], registered["version"]).tags


def test_a_damaged_shard_is_named_and_not_a_traceback(trained: Config, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(str(trained.build.output), dataset)
    shard = next((dataset / "shards").glob("test-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-100])
    update = trained.evaluate.model_copy(update={"dataset": str(dataset), "output": str(tmp_path / "out")})
    with pytest.raises(DataError, match=rf"shard {shard.stem} of {dataset} is damaged.*build it anew"):
        evaluate(trained.model_copy(update={"evaluate": update}))


def test_the_registry_serves_the_maps_of_the_trained_model(trained: Config, registered: dict[str, str]) -> None:
    mlflow.set_tracking_uri(str(trained.tracking.uri))
    loaded = mlflow.pyfunc.load_model(registered["uri"])
    direct = Localizer.load(Path(str(trained.finetune.output), "model"))
    generator = np.random.default_rng(0)
    for shape in ((2, 48, 64, 3), (1, 71, 53, 3)):
        batch = generator.integers(0, 256, shape, dtype=np.uint8)
        for found, expected in zip(loaded.predict(batch)["map"], direct.predict(list(batch)), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_predict_writes_a_map_and_a_row_for_each_image(
    trained: Config, registered: dict[str, str], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    data = (photos / "coffee.png").read_bytes()
    (tmp_path / "in" / "coffee.png").write_bytes(data)
    odd = cv2.imread(str(photos / "rocket.png"))[:90, :71]
    cv2.imwrite(str(tmp_path / "in" / "deep" / "rocket.jpg"), odd)
    (tmp_path / "in" / "notes.txt").write_text("not an image, and not taken for one")
    config = with_predict(trained, tmp_path)
    assert predict(config)["images"] == 2
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert [Path(uri).name for uri in table["image"]] == ["coffee.png", "rocket.jpg"]
    assert table["error"].isna().all()
    model = Localizer.load(Path(str(trained.finetune.output), "model"))
    expected = model.predict([codecs.decode_image(data, "coffee")])[0]
    stored = cv2.imread(str(tmp_path / "out" / "maps" / "coffee.png.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored, np.rint(expected * 255).astype(np.uint8))
    assert table["score"][0] == pytest.approx(image_score(expected), abs=1e-6)
    assert cv2.imread(str(tmp_path / "out" / "maps" / "deep" / "rocket.jpg.png"), -1).shape == (90, 71)
    assert (tmp_path / "out" / "overlays" / "deep" / "rocket.jpg.jpg").exists()


def test_a_replaced_image_is_not_answered_with_the_old_map(
    trained: Config, registered: dict[str, str], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    image = tmp_path / "in" / "one.png"
    image.write_bytes((photos / "coffee.png").read_bytes())
    config = with_predict(trained, tmp_path, input=str(image))  # a single file is an input too
    assert predict(config)["images"] == 1
    image.write_bytes((photos / "camera.png").read_bytes())
    predict(config)
    model = Localizer.load(Path(str(trained.finetune.output), "model"))
    expected = model.predict([codecs.decode_image(image.read_bytes(), "one")])[0]
    stored = cv2.imread(str(tmp_path / "out" / "maps" / "one.png.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored, np.rint(expected * 255).astype(np.uint8))


def test_an_unreadable_image_gets_a_row_and_the_others_their_maps(
    trained: Config, registered: dict[str, str], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.jpg").write_bytes(b"\xff\xd8\xff not really")
    (tmp_path / "in" / "good.png").write_bytes((photos / "coffee.png").read_bytes())
    config = with_predict(trained, tmp_path)
    for _ in range(2):  # asked again, it says so again
        with pytest.raises(DataError, match=r"1 of 2 images.*scores\.csv.*bad\.jpg"):
            predict(config)
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert table["error"].notna().tolist() == [True, False]
    assert table["height"].tolist()[1] == 192
    assert (tmp_path / "out" / "maps" / "good.png.png").exists()
    (tmp_path / "in" / "bad.jpg").write_bytes(cv2.imencode(".jpg", np.zeros((40, 40, 3), np.uint8))[1].tobytes())
    assert predict(config)["failed"] == 0  # mended, it is mapped


def test_predict_takes_a_tile(trained: Config, registered: dict[str, str], photos: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    data = (photos / "coffee.png").read_bytes()
    (tmp_path / "in" / "one.png").write_bytes(data)
    predict(with_predict(trained, tmp_path, tile=1024))
    model = Localizer.load(Path(str(trained.finetune.output), "model"))
    expected = model.predict([codecs.decode_image(data, "one")], tile=1024)[0]
    stored = cv2.imread(str(tmp_path / "out" / "maps" / "one.png.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored, np.rint(expected * 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"input": "EMPTY"}, "no images"),
        ({"input": None}, "predict.input"),
        ({"input": "/no/such/folder"}, "nothing found at /no/such/folder"),
        ({"output": "INPUT/maps"}, "inside predict.input"),
        ({"model": "models:/nobody@candidate"}, "models:/nobody@candidate.*mpc register"),
        ({"model": "/no/such/model"}, "/no/such/model"),
    ],
)
def test_predict_refuses_what_is_not_there(
    trained: Config, photos: Path, tmp_path: Path, changed: dict[str, str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": str(tmp_path / "empty"), "INPUT/maps": str(photos / "maps")}
    given = {key: places.get(value, value) for key, value in changed.items()}
    config = with_predict(trained, tmp_path, **{"input": str(photos), **given})
    with pytest.raises(UserError, match=words):
        predict(config)
    assert not (tmp_path / "out").exists()


def test_an_image_score_is_the_mean_of_its_most_suspicious_percent() -> None:
    probability = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100)
    assert image_score(probability) == pytest.approx(np.sort(probability.ravel())[-100:].mean())
    assert image_score(np.array([[0.25, 0.5]], np.float32)) == 0.5
