"""Commands that are cut off, by a kill, a full disk or refusing storage: what is done is kept, the reason is one line,
and the same command goes on."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import cv2
import numpy as np
import pandas as pd
import pytest
from drills import Driver
from fault_proxy import REFUSED, FaultProxy

from pipelines.config.recipe import RECIPES
from pipelines.config.root import Config
from pipelines.dataset import rejects
from pipelines.dataset.manifest import Manifest

MPC = str(Path(sys.executable).with_name("mpc"))
pytestmark = pytest.mark.slow


def run(*command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([MPC, *command], capture_output=True, text=True, timeout=300, env={**os.environ, **variables})
    assert "Traceback" not in done.stderr
    return done


def predict(trained: Config, workspace: object, source: object) -> list[str]:
    return [
        *("predict", "--config", "demo", f"workspace={workspace}", f"predict.input={source}"),
        *(f"predict.model={trained.evaluate.model}", "predict.overlays=false"),
    ]


def build_from(source: str, settings: list[str], photos: Path, workspace: Path) -> list[str]:
    """The command that builds from `source` instead of the photographs."""
    sources = settings[0].replace(str(photos), source)
    return ["build", "--config", "demo", f"workspace={workspace}", sources, *settings[1:]]


def images(folder: Path, photo: Path, count: int) -> None:
    folder.mkdir()
    image = cv2.imread(str(photo))
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:03}.png"), np.roll(image, number, axis=1))


def test_predict_goes_on_after_a_kill(trained: Config, photos: Path, tmp_path: Path) -> None:
    images(tmp_path / "in", photos / "coffee.png", 200)
    command = predict(trained, tmp_path, tmp_path / "in")
    first = Driver(RECIPES / "demo.yaml", tmp_path, *command[4:], verb="predict")
    rows = tmp_path / "predict" / "rows"
    first.wait(lambda: rows.exists() and any(rows.iterdir()))
    first.kill()  # with its workers, which would go on for a while
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "predict" / "maps").glob("*.png")}
    done = run(*command)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "have their maps already" in line)
    kept = int(line.split()[1])
    assert 8 <= kept < 200
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "predict" / "maps").glob("*.png")}
    assert len(after) == 200
    assert sum(after[name] == changed for name, changed in before.items()) >= kept
    table = pd.read_csv(tmp_path / "predict" / "scores.csv")
    assert table["error"].isna().all()
    assert len(table) == 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("this account may not mount a disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_build_whose_disk_was_full_goes_on_when_there_is_room(
    built: Config, settings: list[str], small_disk: Path
) -> None:
    reserve = small_disk / "reserve"
    reserve.write_bytes(bytes(800_000))
    command = ["build", "--config", "demo", f"workspace={small_disk / 'ws'}", *settings]
    failed = run(*command)
    assert failed.returncode == 1
    reasons = [line for line in failed.stderr.splitlines() if line.startswith("mpc build: ")]
    assert len([line for line in reasons if "No space left" in line]) == 1, failed.stderr
    shards = small_disk / "ws" / "dataset" / "shards"
    kept = {file: file.stat().st_mtime_ns for file in shards.glob("*.parquet") if file.with_suffix(".json").exists()}
    assert kept
    assert not (shards.parent / "manifest.json").exists()
    reserve.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    expected = Manifest.read(str(built.build.output))
    assert Manifest.read(str(shards.parent)).fingerprint == expected.fingerprint


@pytest.fixture
def objects(s3: str, photos: Path, request: pytest.FixtureRequest) -> str:
    """A prefix of photographs of its own; the name of one holds `secret`."""
    name = request.node.name[:40]
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for file in sorted(photos.glob("*.png")):
        client.put_object(Bucket="mpc", Key=f"{name}/in/{file.name}", Body=file.read_bytes())
    body = (photos / "coffee.png").read_bytes()
    secret = cv2.flip(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR), 1)
    data = cv2.imencode(".png", np.roll(secret, 50, axis=1))[1].tobytes()
    client.put_object(Bucket="mpc", Key=f"{name}/in/secret.png", Body=data)
    return f"{s3}/{name}"


def refusing(path: str) -> FaultProxy:
    return FaultProxy(os.environ["AWS_ENDPOINT_URL"], share=1.0, faults=(REFUSED,), path=path, methods=("GET", "HEAD"))


def test_an_object_that_s3_refuses_costs_one_row_and_one_reject(
    trained: Config, settings: list[str], objects: str, photos: Path, tmp_path: Path
) -> None:
    count = len(list(photos.glob("*.png")))
    build = build_from(f"{objects}/in", settings, photos, tmp_path)
    with refusing("secret") as proxy:
        mapped, made = (
            run(*command, AWS_ENDPOINT_URL=proxy.endpoint)
            for command in (predict(trained, tmp_path, f"{objects}/in"), build)
        )
    assert mapped.returncode == 1
    assert f"1 of {count + 1} images could not be read" in mapped.stderr.splitlines()[-1]
    table = pd.read_csv(tmp_path / "predict" / "scores.csv", index_col="image")
    assert "refused access" in table.loc[f"{objects}/in/secret.png", "error"]
    assert table["error"].notna().sum() == 1
    assert made.returncode == 0, made.stderr
    left_out = [row for row in rejects.read(str(tmp_path / "dataset")) if "secret" in row["sample"]]
    assert left_out
    assert all("refused access" in row["message"] for row in left_out)
    again = run(*predict(trained, tmp_path, f"{objects}/in"))
    assert again.returncode == 0, again.stderr
    assert f"{count} of {count + 1} images have their maps already" in again.stderr


def test_storage_that_refuses_every_object_is_one_line(
    trained: Config, settings: list[str], objects: str, photos: Path, tmp_path: Path
) -> None:
    build = build_from(f"{objects}/in", settings, photos, tmp_path)
    with refusing("/in/") as proxy:
        mapped, made = (
            run(*command, AWS_ENDPOINT_URL=proxy.endpoint)
            for command in (predict(trained, tmp_path, f"{objects}/in"), build)
        )
    for done in (mapped, made):
        print(done.stderr)
        assert done.returncode == 2
        assert len([line for line in done.stderr.splitlines() if "refused access" in line]) == 1
    assert not (tmp_path / "dataset" / "manifest.json").exists()


def test_a_dataset_on_s3_that_lost_a_shard_is_repaired(settings: list[str], s3: str) -> None:
    place = f"{s3}/lost-shard"
    command = ["build", "--config", "demo", f"workspace={place}", *settings]
    assert run(*command).returncode == 0
    whole = Manifest.read(f"{place}/dataset")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])

    def shards() -> dict[str, object]:
        listed = client.list_objects_v2(Bucket="mpc", Prefix="lost-shard/dataset/shards/")["Contents"]
        return {one["Key"]: one["LastModified"] for one in listed if one["Key"].endswith(".parquet")}

    before = shards()
    lost = sorted(before)[0]
    client.delete_object(Bucket="mpc", Key=lost)
    looked = run("inspect", f"{place}/dataset")
    assert looked.returncode == 1
    assert lost.rpartition("/")[2] in looked.stderr
    time.sleep(1.1)  # the times of S3 are whole seconds
    assert run(*command).returncode == 0
    after = shards()
    assert {key for key in after if after[key] != before[key]} == {lost}
    assert Manifest.read(f"{place}/dataset").fingerprint == whole.fingerprint
    assert run("inspect", f"{place}/dataset", "--verify").returncode == 0
