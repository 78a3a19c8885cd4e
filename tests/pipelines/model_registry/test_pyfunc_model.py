"""What the registry serves: every kind of input, a row for each, parameters, threads, Ray Data, and no pickle."""

import base64
import json
import os
import pickletools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from support import tiny

from mpc_model.evaluation.metrics import image_score
from mpc_model.imaging import codecs
from mpc_model.localizer import Localizer, image_probability
from pipelines import register
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.model_registry import pyfunc_model
from pipelines.tracking import client

EXACT = {"encoding": "array"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a registry that holds an untrained model which takes images at their own size."""
    folder = tmp_path_factory.mktemp("serving")
    tiny(None).save(folder / "model")
    config = recipe.load(None, [f"workspace={folder / 'workspace'}", f"register.model={folder / 'model'}"])
    register.register(config)
    return config


@pytest.fixture(scope="module")
def entry(config: Config) -> str:
    """The folder of the registered entry."""
    with client.fluent(config):
        return str(mlflow.artifacts.download_artifacts("models:/mpc-localizer@candidate"))


@pytest.fixture(scope="module")
def served(config: Config) -> PyFuncModel:
    with client.fluent(config):
        return mlflow.pyfunc.load_model("models:/mpc-localizer@candidate")


@pytest.fixture
def server(config: Config) -> pyfunc_model.Server:
    """What the entry runs, without MLflow around it."""
    server = pyfunc_model.Server()
    server.localizer = Localizer.load(str(config.register_.model))
    return server


@pytest.fixture(scope="module")
def direct(config: Config) -> Localizer:
    return Localizer.load(str(config.register_.model))


@pytest.fixture(scope="module")
def pictures(photos: Path) -> list[np.ndarray]:
    """Three photographs of as many sizes."""
    names = {"coffee": (64, 80), "rocket": (50, 70), "chelsea": (71, 53)}
    return [codecs.decode_image((photos / f"{n}.png").read_bytes(), n)[:h, :w].copy() for n, (h, w) in names.items()]


# ---- inputs ----


def test_bytes_arrays_paths_and_base64_of_mixed_sizes_in_one_call(
    served: PyFuncModel, direct: Localizer, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    files = [codecs.encode_png(picture) for picture in pictures]
    (tmp_path / "a photo.png").write_bytes(files[0])
    place = tmp_path / "a photo.png"
    encoded = base64.encodebytes(files[2]).decode()  # with line ends
    given = [files[1], pictures[2], str(place), f"file://{place}", place, encoded, f"data:image/png;base64,{encoded}"]
    table = served.predict(given)
    assert list(table.columns) == ["score", "forged_fraction", "height", "width", "map", "mask", "error"]
    assert table["error"].tolist() == [None] * len(given)
    expected = direct.predict(pictures)
    for (_, row), which in zip(table.iterrows(), [1, 2, 0, 0, 0, 2, 2], strict=True):
        assert (row["map"].dtype, row["mask"].dtype) == (np.float32, np.uint8)
        np.testing.assert_allclose(row["map"], expected[which], atol=1e-5)
        np.testing.assert_array_equal(row["mask"], row["map"] > 0.5)
        assert (row["height"], row["width"]) == row["map"].shape == pictures[which].shape[:2]
        assert row["score"] == pytest.approx(image_score(expected[which]), abs=1e-5)
        assert row["forged_fraction"] == pytest.approx(row["mask"].mean())


@pytest.mark.parametrize(
    "form",
    [
        lambda pictures, files: files,
        lambda pictures, files: tuple(pictures),
        lambda pictures, files: pd.DataFrame({"id": [1, 2], "image": files}),
        lambda pictures, files: pd.DataFrame({"content": pictures}),
        lambda pictures, files: pd.Series(files),
        lambda pictures, files: {"image": files},
        lambda pictures, files: [{"image": one} for one in files],
        lambda pictures, files: np.stack(pictures),
        lambda pictures, files: np.array(files, dtype=object),
        lambda pictures, files: [picture.tolist() for picture in pictures],
        lambda pictures, files: [picture.astype(np.int64) for picture in pictures],
    ],
)
def test_images_may_come_in_any_usual_container(form, served, direct, pictures) -> None:
    two = [pictures[0], pictures[0][::-1].copy()]
    table = served.predict(form(two, [codecs.encode_png(picture) for picture in two]))
    for found, expected in zip(table["map"], direct.predict(two), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_image_and_none_are_inputs_too(served: PyFuncModel, pictures: list[np.ndarray]) -> None:
    for one in (pictures[0], codecs.encode_png(pictures[0])):
        assert served.predict(one)["error"].tolist() == [None]
    assert len(served.predict([])) == 0


def bomb() -> bytes:
    """A PNG that says it has 3.6 billion pixels."""
    data = bytearray(codecs.encode_png(np.zeros((8, 8, 3), np.uint8)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(data)


def deep() -> bytes:
    return bytes(cv2.imencode(".png", np.zeros((8, 8), np.uint16))[1].tobytes())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", "is empty"),
        (b"GIF, or so it says", "not an image"),
        (b"\xff\xd8\xff\xe0 cut short", "."),
        (bomb(), "60000x60000 is more than 100000000 pixels"),
        (deep(), "16 bits"),
        ("no/such/photo.jpg", r"image 1 \(no/such/photo.jpg\): is not a file"),
        ("file:///no/such/photo.jpg", "is not a file"),
        ("file://host/photo.jpg", "names another machine"),
        ("file:///photo.jpg?v=2", "writes %3F and %23"),
        ("file:///photo #2.jpg", "writes %3F and %23"),
        ("http://example.org/a.jpg", "is not a file"),
        (os.getcwd(), "is a folder"),
        ("/dev/zero", "."),
        (None, "image 1 is a NoneType"),
        (float("nan"), "is a float"),
        (7, "is a int"),
        (np.zeros((8, 8, 3), np.float32), r"float32 \(8, 8, 3\)"),
        (np.full((8, 8, 3), 300), "int64"),
        (np.zeros((8, 8), np.uint8), r"\(8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
        ([[1], [2, 3]], "no array"),
    ],
)
def test_what_is_no_image_has_its_error_and_the_others_their_maps(given, said, served, pictures) -> None:
    table = served.predict([pictures[0], given, pictures[1]])
    good, bad = table.iloc[[0, 2]], table.iloc[1]
    assert good["error"].tolist() == [None, None]
    assert [found.shape for found in good["map"]] == [picture.shape[:2] for picture in pictures[:2]]
    assert pd.Series([bad["error"]]).str.contains(said).item(), bad["error"]
    assert "image 1" in bad["error"]
    assert all(bad[name] is None for name in table.columns if name != "error")


def test_odd_files_are_read_as_everywhere_else(served: PyFuncModel, direct: Localizer, pictures) -> None:
    grey = cv2.imencode(".jpg", pictures[0][..., 0])[1].tobytes()
    alpha = cv2.imencode(".png", cv2.cvtColor(pictures[0], cv2.COLOR_RGB2BGRA))[1].tobytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6
    jpeg = codecs.encode_jpeg(pictures[0], 90)
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    table = served.predict([grey, alpha, turned])
    expected = direct.predict([codecs.decode_image(file, "file") for file in (grey, alpha, turned)])
    for found, map_ in zip(table["map"], expected, strict=True):
        np.testing.assert_allclose(found, map_, atol=1e-5)
    assert table["map"][2].shape == pictures[0].shape[1::-1]  # upright


def test_paths_are_read_as_they_are_and_file_uris_decoded(
    served: PyFuncModel, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    class Entry:
        def __fspath__(self) -> bytes:
            return os.fsencode(place)

    place = tmp_path / "100% süß #1.png"
    place.write_bytes(codecs.encode_png(pictures[0]))
    uri = place.as_uri()
    given = [place, str(place), uri, uri.replace("file://", "FILE://localhost"), Entry()]
    assert served.predict(given)["error"].tolist() == [None] * 5
    wrong = served.predict(["nope", "s3:///x", "file:///no/such.png"])["error"]
    assert wrong[0] == "image 0 (nope): is not a file, a file:// or s3:// URI, or base64"
    assert "cannot be read" in wrong[1]
    assert "is not a file" in wrong[2]


def test_a_table_without_the_column_is_refused(served: PyFuncModel) -> None:
    for names in (["a", "b"], ["image", "image"]):
        with pytest.raises(
            MlflowException, match=f"the columns are {', '.join(names)}: give the images as one `image`"
        ):
            served.predict(pd.DataFrame([[b"", b""]], columns=names))


def test_a_row_without_an_image_is_an_error_of_that_row(
    served: PyFuncModel, direct: Localizer, pictures: list[np.ndarray]
) -> None:
    png = codecs.encode_png(pictures[0])
    rows = [{"image": png, "name": "a"}, {"picture": png, "name": "b"}, {}, png, {"only": png}, {"image": None}]
    table = served.predict(rows)
    for index, expected in zip((0, 3, 4), direct.predict([pictures[0]] * 3), strict=True):
        assert table["error"][index] is None
        np.testing.assert_allclose(table["map"][index], expected, atol=1e-6)
    assert table["error"][1] == "image 1 has the keys picture, name: give the image as `image`"
    assert table["error"][2] == "image 2 has the keys none: give the image as `image`"
    assert table["error"][5].startswith("image 5 is a NoneType")


def test_objects_of_s3_are_read(served: PyFuncModel, pictures: list[np.ndarray], s3: str) -> None:
    from pipelines.runtime import storage

    storage.write_bytes(f"{s3}/served/one.png", codecs.encode_png(pictures[0]))
    table = served.predict([f"{s3}/served/one.png", f"{s3}/served/none.png"])
    assert table["map"][0].shape == pictures[0].shape[:2]
    assert "none.png" in table["error"][1]


def test_a_server_reads_no_file_for_its_clients(
    served: PyFuncModel, pictures: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "one.png"
    place.write_bytes(codecs.encode_png(pictures[0]))
    assert served.predict([str(place)])["error"][0] is None
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    for location in (str(place), f"file://{place}", "s3://mpc/one.png"):
        assert "is not base64 of an image file" in served.predict([location])["error"][0]


# ---- parameters and outputs ----


def test_the_signature_names_parameters_and_columns_with_the_models_defaults(served: PyFuncModel) -> None:
    parameters = {one.name: one.default for one in served.metadata.get_params_schema().params}
    assert parameters == {"threshold": 0.5, "tile": 1024, "encoding": "auto"}
    outputs = served.metadata.get_output_schema().input_names()
    assert outputs == list(served.predict([])) == list(served.predict(served.input_example))
    square = {one.name: one.default for one in register.signature(tiny(64)).params.params}
    assert square == {"threshold": 0.5, "tile": 0, "encoding": "auto"}


def test_the_threshold_moves_the_mask_and_not_the_map(served: PyFuncModel, pictures: list[np.ndarray]) -> None:
    plain = served.predict(pictures[:1]).iloc[0]
    threshold = float(np.quantile(plain["map"], 0.9))
    strict = served.predict(pictures[:1], params={"threshold": threshold}).iloc[0]
    np.testing.assert_array_equal(strict["map"], plain["map"])
    np.testing.assert_array_equal(strict["mask"], plain["map"] > threshold)
    assert strict["forged_fraction"] == pytest.approx(0.1, abs=0.01)


def test_the_tile_tiles(served: PyFuncModel, direct: Localizer, photos: Path) -> None:
    wide = np.tile(codecs.decode_image((photos / "coffee.png").read_bytes(), "coffee")[:64], (1, 5, 1))
    tiled = served.predict([wide], params={"tile": 256})["map"][0]
    np.testing.assert_array_equal(tiled, direct.predict([wide], tile=256)[0])
    whole = served.predict([wide], params={"tile": 0})["map"][0]
    assert 0 < np.abs(tiled - whole).max() < 1e-3


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"tile": 5}, "tile is 5"),
        ({"encoding": "jpeg"}, "encoding is 'jpeg'"),
        ({"tile": "large"}, "tile"),
    ],
)
def test_impossible_parameters_are_refused(params: dict, said: str, served: PyFuncModel, pictures) -> None:
    with pytest.raises(MlflowException, match=said):
        served.predict(pictures[:1], params=params)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"treshold": 0.4}, "unknown parameter 'treshold': give threshold, tile or encoding"),
        ({"threshold": True}, "threshold is True: give a probability"),
        ({"threshold": "0.4"}, "threshold is '0.4': give a probability"),
        ({"tile": 128}, "tile is 128: give a side of at least 256"),
        ({"tile": 1024.0}, "tile is 1024.0: give"),
        ({"encoding": ["png"]}, "encoding is .* give one of auto, array, png"),
    ],
)
def test_parameters_that_do_not_pass_mlflow_are_checked_too(
    params: dict, said: str, server: pyfunc_model.Server
) -> None:
    with pytest.raises(MlflowException, match=said):
        server.predict(None, [], params)


# ---- the work of a request ----


def grey(height: int, width: int) -> str:
    return base64.b64encode(codecs.encode_png(np.full((height, width, 3), 128, np.uint8))).decode()


def test_a_request_to_a_server_has_so_many_images(server: pyfunc_model.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyfunc_model, "REQUEST_IMAGES", 3)
    assert len(server.predict(None, ["x"] * 4)) == 4  # in a process of one's own
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    assert len(server.predict(None, ["x"] * 3)) == 3
    with pytest.raises(MlflowException, match="4 images: a request to a server may have 3"):
        server.predict(None, ["x"] * 4)


def test_a_request_to_a_server_costs_so_much(server: pyfunc_model.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in order until the budget is used up; what comes after is not decoded."""
    images, spent = [grey(100, 100), grey(300, 300), grey(100, 100), "no image"], "this request asks for more work than"
    monkeypatch.setattr(pyfunc_model, "REQUEST_PIXELS", 2 * 100 * 100 + 2 * 300 * 300)
    assert server.predict(None, images)["error"].notna().sum() == 1
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    whole = server.predict(None, images)
    assert whole["map"].notna().tolist() == [True, True, False, False]
    assert [spent in (error or "") for error in whole["error"]] == [False, False, True, True]
    lists = server.predict(None, images[:1], params=EXACT)  # each pixel counts as 100
    assert lists["error"][0].startswith(f"image 0: {spent}")


def test_a_request_cannot_send_a_large_image_through_the_network_at_once(
    server: pyfunc_model.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyfunc_model, "PASS_PIXELS", 100 * 100)
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    rows = server.predict(None, [grey(100, 101), grey(100, 100)], params={"tile": 0})
    assert rows["error"][0] == "image 0: 10100 pixels go through the network at once; give a tile of 256 to 2048"
    assert rows["error"][1] is None


def test_an_image_without_a_finite_map_has_an_error_and_others_their_maps(
    server: pyfunc_model.Server, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(images: torch.Tensor, *frame: object) -> torch.Tensor:
        dark = images.flatten(1).mean(1) < 0.01
        return torch.where(dark, -torch.inf, 0.0)[:, None, None, None].expand(-1, 1, 8, 8)

    monkeypatch.setattr(server.localizer, "forward", forward)
    rows = server.predict(None, [pictures[0], np.zeros_like(pictures[0]), pictures[0]])
    assert rows["error"].tolist() == [
        None,
        "image 1: the model's answer is not finite, so there is no map; use another model",
        None,
    ]
    assert rows["map"].notna().tolist() == [True, False, True]
    assert rows["score"][1] is None


def test_png_holds_the_map_in_levels_and_the_mask_exactly(served: PyFuncModel, pictures: list[np.ndarray]) -> None:
    exact = served.predict(pictures, params=EXACT)
    files = served.predict([*pictures, b""], params={"encoding": "png"})
    for (_, array), (_, png) in zip(exact.iterrows(), files.iterrows(), strict=False):
        levels = cv2.imdecode(np.frombuffer(png["map"], np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(levels, np.rint(array["map"] * 255).astype(np.uint8))
        np.testing.assert_array_equal(codecs.decode_mask(png["mask"], "mask"), array["mask"])
    restored = json.loads(json.dumps(files.drop(columns=["map", "mask"]).to_dict("records"), allow_nan=False))
    assert restored[-1]["score"] is None  # NaN would be no JSON
    assert restored[0]["height"] == pictures[0].shape[0]


def test_a_server_answers_in_png_unless_told(served: PyFuncModel, pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    assert isinstance(served.predict(pictures[:1])["map"][0], bytes)
    assert isinstance(served.predict(pictures[:1], params=EXACT)["map"][0], np.ndarray)


# ---- at scale ----


def test_threads_get_what_one_caller_gets(served: PyFuncModel, pictures: list[np.ndarray]) -> None:
    files = [codecs.encode_png(picture) for picture in pictures]
    expected = served.predict(files)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: served.predict(files), range(24)):
            for name in ("map", "mask"):
                for got, array in zip(found[name], expected[name], strict=True):
                    np.testing.assert_array_equal(got, array)


def test_ray_data_maps_it_over_bytes(ray_session: None, entry: str, pictures: list[np.ndarray]) -> None:
    import ray

    class Predictor:
        def __init__(self) -> None:
            self.model = mlflow.pyfunc.load_model(entry)

        def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
            found = self.model.predict(batch[["image"]], params={"encoding": "png"})
            return pd.concat([batch[["id"]].reset_index(drop=True), found], axis=1)

    files = [*(codecs.encode_png(picture) for picture in pictures), b"no image"]
    rows = ray.data.from_items([{"id": index, "image": file} for index, file in enumerate(files)])
    mapped = rows.map_batches(
        Predictor, batch_format="pandas", batch_size=2, compute=ray.data.ActorPoolStrategy(size=1)
    )
    found = {row["id"]: row for row in mapped.take_all()}
    expected = mlflow.pyfunc.load_model(entry).predict(files, params={"encoding": "png"})
    for index in range(3):
        assert found[index]["map"] == expected["map"][index]
        assert found[index]["score"] == pytest.approx(expected["score"][index])
    assert "not an image" in found[3]["error"]
    assert found[3]["map"] is None


# ---- what is in the entry ----


def test_nothing_in_the_entry_is_a_pickle(entry: str) -> None:
    files = [path for path in Path(entry).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {"MLmodel", "model.safetensors", "pyfunc_model.py"} <= {path.name for path in files}
    for path in files:
        with pytest.raises((ValueError, UnicodeDecodeError, IndexError)):  # what pickletools says of anything else
            list(pickletools.genops(path.read_bytes()))
        assert not path.read_bytes().startswith((b"\x80", b"PK\x03\x04"))


def test_it_loads_without_ray_or_the_jobs_and_with_pickle_switched_off(entry: str, tmp_path: Path) -> None:
    script = f"""
import sys
for name in ("ray", "pipelines", "pyarrow.fs"):
    sys.modules[name] = None
import mlflow, numpy as np
table = mlflow.pyfunc.load_model({entry!r}).predict([np.zeros((40, 50, 3), np.uint8), "s3://bucket/key"])
print(table["map"][0].shape, table["error"][1], __import__("mpc_model").__file__)
"""
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, env=environment)
    assert done.stdout.startswith("(40, 50) image 1 (s3://bucket/key): s3:// needs pyarrow"), done.stderr
    assert entry in done.stdout  # the code that ran is the entry's own


def test_its_code_imports_neither_ray_nor_the_jobs(entry: str, tmp_path: Path) -> None:
    script = f"""
import sys
sys.path[:0] = [{entry!r}, {entry!r} + "/code"]
import pyfunc_model
print([name for name in sys.modules if name.split(".")[0] in ("ray", "pipelines", "fsspec")])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_mpc_model_alone_loads_what_the_registry_holds(
    entry: str, direct: Localizer, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    """torch, numpy, OpenCV and safetensors, with MLflow, Ray, pandas and Arrow out of reach."""
    np.save(tmp_path / "image.npy", pictures[0])
    script = f"""
import sys
for name in ("ray", "mlflow", "pandas", "pyarrow", "pydantic", "yaml", "pipelines"):
    sys.modules[name] = None
sys.path.insert(0, {entry!r} + "/code")
import numpy as np
from mpc_model import Localizer
(found,) = Localizer.load({entry!r} + "/artifacts/model").predict([np.load("image.npy")])
np.save("map.npy", found)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "map.npy"), direct.predict(pictures[:1])[0], atol=1e-6)


def test_another_mpc_model_that_was_imported_before_is_named_with_what_to_do(entry: str, tmp_path: Path) -> None:
    """An entry of an earlier release that was loaded first brings its own `mpc_model`, without today's modules."""
    earlier = tmp_path / "mpc_model"
    earlier.mkdir()
    for file in ("__init__.py", "errors.py"):
        (earlier / file).write_text("class UserError(Exception): ...\nclass DataError(Exception): ...\n")
    # An editable installation finds its own modules below any package of that name: consumers have none.
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in getattr(f, '__module__', '')]; "
    )
    code += f"sys.path.insert(0, {str(tmp_path)!r}); import mpc_model, mlflow; mlflow.pyfunc.load_model({entry!r})"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert run.returncode == 1
    words = f"this process has already imported another mpc_model, from {earlier}, with which this entry cannot work"
    assert words in run.stderr
    assert "load the entry before that one, or in a process of its own" in run.stderr


# ---- several classes ----


@pytest.fixture(scope="module")
def classes_server() -> pyfunc_model.Server:
    server = pyfunc_model.Server()
    server.localizer = tiny(64, names=("background", "left", "right"))
    return server


def test_a_model_of_several_classes_answers_by_class(
    classes_server: pyfunc_model.Server, pictures: list[np.ndarray]
) -> None:
    model = classes_server.localizer
    table = classes_server.predict(None, [*pictures, "no image"], EXACT)
    signature = register.signature(model)
    assert list(table) == signature.outputs.input_names() == list(pyfunc_model.CLASS_COLUMNS)
    assert [one.name for one in signature.params.params] == ["tile", "encoding"]
    assert table["error"].isna().tolist() == [True, True, True, False]
    packed = classes_server.predict(None, pictures, {"encoding": "png"})
    for index, map_ in enumerate(model.predict(pictures)):
        row, files = table.iloc[index], packed.iloc[index]
        np.testing.assert_allclose(row["map"], map_, atol=1e-5)
        np.testing.assert_array_equal(row["mask"], row["map"].argmax(0))
        shares = {name: (row["mask"] == label).mean() for label, name in enumerate(model.spec.labels)}
        assert row["shares"] == pytest.approx(shares)
        assert (row["height"], row["width"]) == map_.shape[1:]
        mask, levels = (cv2.imdecode(np.frombuffer(files[name], np.uint8), -1) for name in ("mask", "map"))
        np.testing.assert_array_equal(mask, row["mask"])
        np.testing.assert_array_equal(levels.reshape(map_.shape), np.rint(row["map"] * 255))


def test_several_classes_have_no_threshold(classes_server: pyfunc_model.Server) -> None:
    with pytest.raises(MlflowException, match="unknown parameter 'threshold': give tile or encoding"):
        classes_server.predict(None, [], {"threshold": 0.5})


def test_a_head_that_scores_the_image_has_a_column_more(pictures: list[np.ndarray]) -> None:
    server = pyfunc_model.Server()
    server.localizer = tiny(64, head="mscc")
    table = server.predict(None, pictures[:1])
    assert list(table) == register.signature(server.localizer).outputs.input_names()
    (answer,) = server.localizer.answers(pictures[:1])
    assert table["head_score"][0] == pytest.approx(image_probability(answer.image), abs=1e-6)
    with pytest.raises(MlflowException, match="the head mscc looks at an image as a whole"):
        server.predict(None, pictures[:1], {"tile": 256})
