"""Maps and the table of an image or a folder of them, and what is refused."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import tiny

from mpc_model.errors import DataError, MPCError, UserError
from mpc_model.evaluation.metrics import image_score
from mpc_model.imaging import codecs
from mpc_model.localizer import Localizer
from pipelines.artifacts import record
from pipelines.config import recipe
from pipelines.config.root import Config, PredictConfig
from pipelines.inference.mapper import MapJob
from pipelines.predict import _map_missing, predict


def with_predict(config: Config, folder: Path, **settings: object) -> Config:
    model = "models:/mpc-localizer@candidate"
    made = {"input": str(folder / "in"), "output": str(folder / "out"), "model": model, **settings}
    return config.model_copy(update={"predict": config.predict.model_copy(update=made)})


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
    assert set(table["model"]) == {"mpc-localizer"}
    assert set(table["version"]) == {int(registered["version"])}
    assert set(table["alias"]) == {"candidate"}
    assert set(table["threshold"]) == {0.5}
    assert table[["image_threshold", "forged"]].isna().all(axis=None)
    used = record.read(str(tmp_path / "out")).results["model"]
    assert (used["version"], used["alias"], used["image_threshold"]) == (registered["version"], "candidate", None)
    assert '"deep/rocket.jpg"' in (tmp_path / "out" / "index.html").read_text()
    assert record.read(str(tmp_path / "out")).results["precision"] == "fp32"
    rough = config.model_copy(update={"predict": config.predict.model_copy(update={"precision": "bf16"})})
    results = predict(rough)  # its maps are others, in the same place
    assert results["precision"] == record.read(str(tmp_path / "out")).results["precision"] == "bf16"
    mapped = cv2.imread(str(tmp_path / "out" / "maps" / "coffee.png.png"), cv2.IMREAD_UNCHANGED)
    assert 0 < np.abs(mapped.astype(float) - stored).max() < 60


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
        (
            {"model": recipe.load(None, []).predict.model},
            "mpc-localizer@champion .*mpc promote.* predict.model=models:/mpc-localizer@candidate",
        ),
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


def test_a_failure_before_the_first_row_is_raised_as_it_was(ray_session: None, photos: Path, tmp_path: Path) -> None:
    """Nothing is counted then: counters of Ray refuse 0."""
    (tmp_path / "rows").touch()  # where the folder of rows should be
    missing = pa.table({"image": [str(photos / "coffee.png")], "name": ["coffee.png"], "key": ["k"]})
    settings = PredictConfig(output=str(tmp_path), workers=0, overlays=False)
    with pytest.raises(MPCError, match=f"{tmp_path}/rows"):
        list(_map_missing(MapJob(tiny(), settings), missing, 0, resumed=False))


@pytest.fixture(scope="module")
def advised(trained: Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The trained model with an advised threshold of image scores in its card."""
    folder = str(tmp_path_factory.mktemp("advised"))
    model = Localizer.load(Path(str(trained.finetune.output), "model"))
    model.card = {**model.card, "image_threshold": 0.5}
    for name, data in model.packed().items():
        Path(folder, name).write_bytes(data)
    return folder


@pytest.mark.parametrize("kind", ["csv", "parquet", "txt"])
def test_a_listing_names_the_images_and_the_card_says_which_are_forged(
    trained: Config, advised: str, photos: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files beside the listing, files elsewhere and files that are not there; one is named twice."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "near.png").write_bytes((photos / "coffee.png").read_bytes())
    named = ["near.png", str(photos / "rocket.png"), "gone.png", "near.png"]
    listing = tmp_path / "in" / f"list.{kind}"
    if kind == "csv":
        listing.write_text("camera;Image\n" + "".join(f"x;{name}\n" for name in named))
    elif kind == "txt":
        listing.write_text("\n".join(named) + "\n\n")
    else:
        pq.write_table(pa.table({"image": named, "label": [1, 0, 1, 0]}), listing)
    config = with_predict(trained, tmp_path, input=str(listing), model=advised, overlays=False)
    with pytest.raises(MPCError, match=r"1 of 3 images could not be read.*gone\.png"):
        predict(config)
    said = capsys.readouterr().err
    assert "1 rows of " in said
    assert "images are called forged: their score is above 0.5" in said
    table = pd.read_parquet(tmp_path / "out" / "scores.parquet").set_index("image")
    maps = [str(Path(file).relative_to(tmp_path / "out" / "maps")) for file in table["map"].dropna()]
    assert sorted(maps) == sorted([f"@file{photos}/rocket.png.png", "near.png.png"])
    good = table[table["error"].isna()]
    assert (good["forged"] == (good["score"] > 0.5)).all()
    assert table.loc[f"{tmp_path}/in/gone.png", "forged"] is pd.NA
    assert set(table["model"]) == {advised}
    assert table["version"].isna().all()
