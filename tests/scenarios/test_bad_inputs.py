"""Verbs x bad inputs: each bad file beside good ones costs its own row or reject, and is said on lines that print."""

import os
from pathlib import Path

import boto3
import cv2
import numpy as np
import pandas as pd
import pytest
from fault_proxy import REFUSED, FaultProxy

from mpc_model.errors import UnreadableFileError
from pipelines import cli
from pipelines.config.root import Config
from pipelines.dataset import rejects
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import storage

GOOD = (
    *("coffee.png", "A.png", "Screenshot at 4.42.48\u202fPM.png", "caf\udce9.png", "two\nlines.png"),
    "n" * 250 + ".png",
)
WRITTEN = {"caf\udce9.png": "caf\\udce9.png", "two\nlines.png": "two\\x0alines.png"}
BAD = {
    "gone.png": "nothing found at",
    "loop.png": "Too many levels of symbolic links",
    "empty.png": "empty",
    "cut.png": "",
    "red\x1b[31m.png": "not",
}
PASSED_OVER = 5


def fill(folder: Path, photo: bytes) -> None:
    """Good images, bad ones, and files that are none. Every good image has other pixels."""
    folder.mkdir(parents=True)
    image = cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR)
    for index, name in enumerate(GOOD):
        (folder / name).write_bytes(cv2.imencode(".png", np.roll(image, 31 * index, axis=1))[1].tobytes())
    (folder / "gone.png").symlink_to("/nowhere/annex/x.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes(photo[:500])
    (folder / "red\x1b[31m.png").write_bytes(b"no image at all")
    os.mkfifo(folder / "pipe")
    (folder / "pipe.png").symlink_to("pipe")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "Icon\r").touch()
    (folder / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")


def said(captured: str) -> list[str]:
    """The lines of a terminal; none has a traceback or a character that steers it."""
    assert "Traceback" not in captured
    assert all(line.isprintable() for line in captured.split("\n"))
    return captured.splitlines()


def command(config: Config, folder: Path, source: str) -> list[str]:
    return [
        *("predict", "--config", "demo", f"workspace={folder}", f"predict.input={source}"),
        *(f"predict.model={config.evaluate.model}", "predict.overlays=false"),
    ]


def test_predict_maps_the_good_images_and_has_a_row_for_each_bad_one(
    trained: Config, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    fill(folder, (photos / "coffee.png").read_bytes())
    assert cli.main(command(trained, tmp_path, str(folder))) == 1
    lines = said(capfd.readouterr().err)
    (line,) = (line for line in lines if "passed over" in line)
    assert line.startswith(f"predict: {PASSED_OVER} files are passed over as no images (")
    assert "1 .HEIC" in line
    assert f"{len(BAD)} of {len(BAD) + len(GOOD)} images could not be read" in lines[-1]
    table = pd.read_csv(tmp_path / "predict" / "scores.csv", index_col="image")
    assert len(table) == len(BAD) + len(GOOD)
    maps = {}
    for name in GOOD:
        row = table.loc[f"{folder}/{WRITTEN.get(name, name)}"]
        assert pd.isna(row["error"])
        assert cv2.imread(row["map"], cv2.IMREAD_UNCHANGED).shape == (row["height"], row["width"])
        maps[name] = os.stat(row["map"]).st_mtime_ns
    assert len({*table["map"].dropna()}) == len(GOOD)
    for name, words in BAD.items():
        assert words in table.loc[str(folder / name).replace("\x1b", "\\x1b"), "error"]
    # The same command maps no image again but those that were bad, or that were changed.
    (folder / "empty.png").write_bytes((photos / "rocket.png").read_bytes())
    (folder / "A.png").write_bytes((photos / "rocket.png").read_bytes())
    assert cli.main(command(trained, tmp_path, str(folder))) == 1
    lines = said(capfd.readouterr().err)
    assert f"predict: {len(GOOD) - 1} of {len(table)} images have their maps already" in lines
    again = pd.read_csv(tmp_path / "predict" / "scores.csv", index_col="image")
    assert again["error"].notna().sum() == len(BAD) - 1
    found = {name: again.loc[f"{folder}/{WRITTEN.get(name, name)}", "map"] for name in GOOD}
    assert [name for name in GOOD if os.stat(found[name]).st_mtime_ns != maps[name]] == ["A.png"]


def test_build_takes_the_good_photographs_and_has_a_reject_for_each_bad_one(
    ray_session: None, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    fill(folder, (photos / "coffee.png").read_bytes())
    source = f"{{name: odd, layout: photos, location: {folder}, crop: 64, samples_per_photo: 1}}"
    overrides = [f"workspace={tmp_path}", f"build.sources=[{source}]", "build.max_reject_fraction=0.6"]
    overrides += ["build.near_duplicates=together", "build.views={policy: light, count: 1}"]
    assert cli.main(["build", "--config", "demo", *overrides]) == 0
    lines = said(capfd.readouterr().err)
    assert any(f"build: source odd: {PASSED_OVER} files are passed over as no images" in line for line in lines)
    left_out = {row["sample"]: row for row in rejects.read(str(tmp_path / "dataset"))}
    for name, words in BAD.items():
        reject = left_out.pop(f"odd/{name}#0000".replace("\x1b", "\\x1b"))
        assert reject["stage"] == "survey"
        assert words in reject["message"]
    manifest = Manifest.read(str(tmp_path / "dataset"))
    assert sum(split.samples for split in manifest.splits.values()) + len(left_out) == len(GOOD)
    assert {row["reason"] for row in left_out.values()} <= {"not_forged"}
    assert cli.main(["inspect", str(tmp_path / "dataset"), "--verify"]) == 0
    captured = capfd.readouterr()
    said(captured.out + captured.err)


def test_an_object_that_s3_refuses_is_of_that_object_only(
    photos: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for name in ("good.png", "secret.png"):
        client.put_object(Bucket="mpc", Key=f"refusing/{name}", Body=(photos / "coffee.png").read_bytes())
    refusing = FaultProxy(os.environ["AWS_ENDPOINT_URL"], share=1.0, faults=(REFUSED,), path="secret", methods=("GET",))
    with refusing as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert storage.read_bytes(f"{s3}/refusing/good.png")
        with pytest.raises(UnreadableFileError, match=r"refused access to .*secret\.png \(AccessDenied\)"):
            storage.read_bytes(f"{s3}/refusing/secret.png")
        assert proxy.counts[REFUSED] == 1  # it is not tried again
