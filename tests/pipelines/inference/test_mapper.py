"""The work of `mpc predict`, called as a worker calls it."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import tiny

from mpc_model.errors import InfrastructureError
from mpc_model.evaluation.metrics import image_score
from mpc_model.imaging import codecs
from mpc_model.localizer import Localizer, ModelSpec, image_probability
from pipelines.config.root import PredictConfig
from pipelines.inference import row_store
from pipelines.inference.mapper import MapJob, Mapper, pixels


def mapper(output: Path, **settings: Any) -> Mapper:
    return Mapper(tiny(), PredictConfig(output=str(output), **settings))


def batch(*files: Path, prefix: str = "") -> pa.Table:
    names = [prefix + file.name for file in files]
    return pa.table({"image": [str(file) for file in files], "name": names, "key": [f"key of {n}" for n in names]})


def mapped(worker: Mapper, task: pa.Table) -> pd.DataFrame:
    """The rows of a task that no failure ended."""
    rows, failure = worker(task)
    assert failure is None
    assert rows.schema == row_store.SCHEMA
    return rows.to_pandas()


def renamed(task: pa.Table, index: int, name: str) -> pa.Table:
    names = task["name"].to_pylist()
    names[index] = name
    return task.set_column(1, "name", pa.array(names))


def test_a_batch_of_images_becomes_rows_maps_and_overlays(photos: Path, tmp_path: Path) -> None:
    files = photos / "coffee.png", photos / "camera.png"  # in colour and grey
    rows = mapped(mapper(tmp_path, overlays=True), batch(*files, prefix="deep/"))
    assert rows["error"].isna().all()
    model = tiny()
    for row, file in zip(rows.to_dict("records"), files, strict=True):
        probability = model.predict([codecs.decode_image(file.read_bytes(), file.name)])[0]
        levels = cv2.imread(row["map"], cv2.IMREAD_UNCHANGED)
        assert row["map"] == str(tmp_path / "maps" / "deep" / f"{file.name}.png")
        np.testing.assert_array_equal(levels, np.rint(255 * probability).astype(np.uint8))
        assert (row["height"], row["width"]) == levels.shape == probability.shape
        assert row["score"] == pytest.approx(image_score(probability), abs=1e-6)
        assert row["forged_fraction"] == pytest.approx((levels >= 128).mean())  # the threshold is 0.5
        overlay = cv2.imread(str(tmp_path / "overlays" / "deep" / f"{file.name}.jpg"))
        assert overlay[: probability.shape[0]].shape == (*probability.shape, 3)
        assert 0 < len(overlay) - probability.shape[0] < 50  # the scale of colours


def test_an_image_that_cannot_be_read_costs_its_own_row_only(photos: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes((photos / "coffee.png").read_bytes()[:500])
    output = tmp_path / "out"
    rows = mapped(mapper(output, overlays=False), batch(broken, photos / "rocket.png"))
    assert str(broken) in rows["error"][0]
    assert rows.loc[0, ["map", "height", "width", "score", "forged_fraction"]].isna().all()
    assert pd.isna(rows["error"][1])
    (stored,) = (str(file.relative_to(output)) for file in (output / "rows").iterdir())
    assert pq.read_table(output / stored)["key"].to_pylist() == ["key of rocket.png"]
    assert [str(path.relative_to(output)) for path in sorted(output.rglob("*")) if path.is_file()] == [
        "maps/rocket.png.png",
        stored,
    ]


def test_an_image_without_a_finite_map_has_an_error_and_no_map(photos: Path, tmp_path: Path) -> None:
    model = tiny()
    torch.nn.init.constant_(model.decoder.classifier[-1].bias, -torch.inf)  # its maps would be "authentic" everywhere
    worker = Mapper(model, PredictConfig(output=str(tmp_path / "out"), overlays=True))
    rows = mapped(worker, batch(photos / "coffee.png"))
    assert (
        rows["error"][0]
        == f"{photos}/coffee.png: the model's answer is not finite, so there is no map; use another model"
    )
    assert rows.loc[0, ["map", "height", "width", "score", "forged_fraction"]].isna().all()
    assert not (tmp_path / "out").exists()


def test_tiles_are_those_of_the_localizer(photos: Path, tmp_path: Path) -> None:
    file = photos / "coffee.png"
    mapped(mapper(tmp_path, overlays=False, tile=256), batch(file))
    expected = tiny().predict([codecs.decode_image(file.read_bytes(), "coffee")], tile=256)[0]
    levels = cv2.imread(str(tmp_path / "maps" / "coffee.png.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(levels, np.rint(255 * expected).astype(np.uint8))


def test_what_is_of_no_single_image_ends_the_batch_and_keeps_the_rows_before(photos: Path, tmp_path: Path) -> None:
    worker = mapper(tmp_path, overlays=False)
    files = photos / "coffee.png", photos / "camera.png", photos / "rocket.png"
    made = renamed(batch(*files), 1, "no/such")
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "no").symlink_to("/proc/nothing")  # where nothing can be written
    rows, failure = worker(made)
    assert rows["image"].to_pylist() == [str(files[0])]
    assert isinstance(failure, InfrastructureError)
    assert "maps/no" in str(failure)
    assert len(list((tmp_path / "rows").iterdir())) == 1


def test_a_name_that_no_file_can_have_is_the_error_of_its_image(photos: Path, tmp_path: Path) -> None:
    made = renamed(batch(photos / "coffee.png", photos / "rocket.png"), 0, "n" * 300)
    rows = mapped(mapper(tmp_path, overlays=False), made)
    assert "File name too long" in rows["error"][0]
    assert pd.isna(rows["error"][1])


def test_an_image_without_a_finite_map_costs_no_other_of_its_batch(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [photos / f"{name}.png" for name in ("coffee", "astronaut", "chelsea", "rocket", "camera")]
    worker = mapper(tmp_path, overlays=False, batch_size=8)
    broken = codecs.decode_image(files[2].read_bytes(), "chelsea")
    marked = torch.from_numpy(cv2.resize(broken, (64, 64))).permute(2, 0, 1).float() / 255
    forward, batches = worker.network.model.forward, []

    def overflowing(images: torch.Tensor, frame: object = None) -> torch.Tensor:
        batches.append(len(images))
        logits = forward(images, frame)
        logits[(images == marked).flatten(1).all(1)] = torch.inf
        return logits

    monkeypatch.setattr(worker.network.model, "forward", overflowing)
    rows = mapped(worker, batch(*files))
    assert batches[0] == 5
    assert rows["image"].tolist() == [str(file) for file in files]
    assert rows["error"].notna().tolist() == [False, False, True, False, False]
    assert "chelsea.png: the model's answer is not finite" in rows["error"][2]
    for file in (files[0], files[4]):
        probability = tiny().predict([codecs.decode_image(file.read_bytes(), file.name)])[0]
        levels = cv2.imread(str(tmp_path / "maps" / f"{file.name}.png"), cv2.IMREAD_UNCHANGED)
        assert np.abs(levels - 255 * probability).max() <= 0.51  # rounding, of the batch and of 8 bits


def test_bf16_maps_have_keys_of_their_own_and_are_near_those_of_fp32(photos: Path, tmp_path: Path) -> None:
    files, scores = (photos / "coffee.png", photos / "camera.png"), {}
    for precision in ("fp32", "bf16"):
        worker = mapper(tmp_path / precision, overlays=False, precision=precision)
        scores[precision] = mapped(worker, batch(*files))["score"].to_numpy(float)
    assert 0 < np.abs(scores["fp32"] - scores["bf16"]).max() < 0.2


def test_an_image_that_ends_its_workers_has_a_row_with_the_reason(photos: Path, tmp_path: Path) -> None:
    job = MapJob(tiny(), PredictConfig(output=str(tmp_path)))
    (row,) = job.lost(batch(photos / "coffee.png"), 4).to_pylist()
    assert row["error"].startswith(f"{photos}/coffee.png: its worker ended 4 times while it mapped this image")
    assert (row["image"], row["key"], row["map"]) == (f"{photos}/coffee.png", "key of coffee.png", None)


@pytest.mark.parametrize("head", ["mlp4", "mscc"])
def test_tiles_are_advised_where_memory_ran_out_if_the_head_takes_them(
    head: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, settings = Localizer(ModelSpec("hrformer_tiny", head, 64)).eval(), PredictConfig(output=str(tmp_path))
    worker, task = Mapper(model, settings), batch(photos / "coffee.png")

    def full(*_: object) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(worker.network.model.encoder, "forward", full)
    rows = [*worker(task)[0].to_pylist(), *MapJob(model, settings).lost(task, 4).to_pylist()]
    for error in (row["error"] for row in rows):
        assert error.endswith("give workers more memory, or leave the image out")
        assert ("set predict.tile" in error) == (head == "mlp4")


def test_pixels_are_counted_by_the_headers_until_they_are_enough(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = [str(tmp_path / "broken.png"), str(photos / "coffee.png"), str(photos / "camera.png")]
    assert pixels(images, 10**9) == 2 * 192 * 256
    assert pixels([*images, "/no/such/file.png"], 10**9) == 2 * 192 * 256
    assert pixels(images, 100) == 192 * 256


def test_a_model_of_several_classes_writes_class_maps_and_the_share_of_each(photos: Path, tmp_path: Path) -> None:
    model = tiny(names=("background", "left", "right"))
    worker = Mapper(model, PredictConfig(output=str(tmp_path)))
    rows, failure = worker(batch(photos / "coffee.png", photos / "missing.png"))
    assert failure is None
    shares = ["share_background", "share_left", "share_right"]
    assert rows.schema.names == ["image", "map", "height", "width", *shares, "error", "note", "key"]
    row, missing = rows.to_pylist()
    image = codecs.decode_image((photos / "coffee.png").read_bytes(), "coffee")
    labels = model.predict([image])[0].argmax(0)
    np.testing.assert_array_equal(cv2.imread(row["map"], cv2.IMREAD_UNCHANGED), labels)
    assert [row[name] for name in shares] == pytest.approx([(labels == label).mean() for label in range(3)])
    assert cv2.imread(str(tmp_path / "overlays" / "coffee.png.jpg")).shape == image.shape
    assert missing["error"]
    assert {missing[name] for name in shares} == {None}


def test_a_head_that_scores_the_image_has_a_column_more(photos: Path, tmp_path: Path) -> None:
    model = tiny(head="mscc")
    rows, failure = Mapper(model, PredictConfig(output=str(tmp_path), overlays=False))(batch(photos / "coffee.png"))
    assert failure is None
    assert rows.schema.names[4:7] == ["score", "forged_fraction", "head_score"]
    image = codecs.decode_image((photos / "coffee.png").read_bytes(), "coffee")
    (answer,) = model.answers([image])
    assert answer.image is not None
    assert rows["head_score"].to_pylist() == pytest.approx([image_probability(answer.image)], abs=1e-6)
