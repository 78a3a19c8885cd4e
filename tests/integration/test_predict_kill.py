"""`mpc predict` and `mpc evaluate` while their workers, their driver and a host die: nothing is lost, nothing hangs."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import boto3
import cv2
import numpy as np
import pandas as pd
import psutil
import pytest
from drills import Driver
from fault_proxy import KILLED, FaultProxy
from support import tiny
from two_hosts import TwoHosts

from pipelines.artifacts.evaluation import IMAGES
from pipelines.config.recipe import RECIPES
from pipelines.config.root import Config
from pipelines.inference import pool

pytestmark = pytest.mark.slow
RECIPE = RECIPES / "demo.yaml"


def workers(candidates: list[int]) -> list[psutil.Process]:
    """The actors of Ray Data among some processes."""
    found = []
    for pid in candidates:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::MapWorker"):
                found.append(process)
    return found


def write_images(folder: Path, photo: Path, count: int) -> None:
    folder.mkdir()
    image = cv2.imread(str(photo))
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:03}.png"), np.roll(image, number, axis=1))


def stored(folder: Path) -> Callable[[], int]:
    """How many files of rows there are."""
    return lambda: len(list(folder.glob("rows/*.parquet")))


def table(workspace: Path) -> pd.DataFrame:
    return pd.read_csv(workspace / "predict" / "scores.csv", index_col="image")


def test_a_worker_that_is_killed_has_its_images_done_again(photos: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "in", photos / "coffee.png", 120)
    tiny(None).save(tmp_path / "model")
    settings = [f"predict.model={tmp_path}/model", f"predict.input={tmp_path}/in", "predict.overlays=false"]
    driver = Driver(RECIPE, tmp_path, *settings, verb="predict")
    driver.wait(stored(tmp_path / "predict"))
    for worker in workers([one.pid for one in driver.family()]):
        worker.kill()
    driver.finish()
    assert table(tmp_path)["error"].isna().tolist() == [True] * 120


def test_an_image_that_kills_its_workers_has_a_row_and_the_others_their_maps(
    s3: str, trained: Config, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    body = (photos / "coffee.png").read_bytes()
    names = [*(f"{number:02}.png" for number in range(20)), "07-deadly.png"]
    for name in names:
        client.put_object(Bucket="mpc", Key=f"kills/{name}", Body=body)
    settings = [f"predict.model={trained.evaluate.model}", f"predict.input={s3}/kills", "predict.overlays=false"]
    with FaultProxy(
        os.environ["AWS_ENDPOINT_URL"], share=1.0, faults=(KILLED,), path="deadly", methods=("GET",)
    ) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        said = Driver(RECIPE, tmp_path, *settings, verb="predict").finish(1)
        assert proxy.counts[KILLED] >= pool.BLOCK_LOSSES + pool.ROW_LOSSES
    assert "1 of 21 images could not be read" in said.splitlines()[-1]
    errors = table(tmp_path)["error"].dropna()
    assert errors.index.tolist() == [f"{s3}/kills/07-deadly.png"]
    assert "its worker ended 4 times while it mapped this image" in errors.iloc[0]
    assert len(list((tmp_path / "predict" / "maps").glob("*.png"))) == 20


def test_an_evaluation_that_is_killed_goes_on_to_the_same_metrics(trained: Config, tmp_path: Path) -> None:
    settings = [f"evaluate.model={trained.evaluate.model}", f"evaluate.dataset={trained.build.output}"]
    settings += ["evaluate.split=train", "evaluate.workers=1"]
    output = tmp_path / "a" / "evaluate"
    driver = Driver(RECIPE, tmp_path / "a", *settings, verb="evaluate")
    driver.wait(stored(output))
    driver.kill()
    assert not (output / "metrics.json").exists()
    said = Driver(RECIPE, tmp_path / "a", *settings, verb="evaluate").finish()
    assert "images are scored already" in said
    Driver(RECIPE, tmp_path / "b", *settings[:-1], "evaluate.workers=0", verb="evaluate").finish()
    for name in ("metrics.json", IMAGES):
        assert (output / name).read_bytes() == (tmp_path / "b" / "evaluate" / name).read_bytes()
    assert not (output / "rows").exists()


def test_a_host_that_joins_is_used_and_may_be_lost(hosts: TwoHosts, photos: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "in", photos / "coffee.png", 2000)
    tiny(None).save(tmp_path / "model")
    settings = [f"predict.model={tmp_path}/model", f"predict.input={tmp_path}/in", "predict.overlays=false"]
    driver = Driver(RECIPE, tmp_path, *settings, "predict.workers=[1, 4]", hosts=hosts, verb="predict")
    driver.wait(stored(tmp_path / "predict"))
    hosts.join()
    driver.wait(lambda: workers(hosts.pids(2)))
    before = stored(tmp_path / "predict")()
    driver.wait(lambda: stored(tmp_path / "predict")() > before)
    hosts.lose()
    driver.finish()
    assert table(tmp_path)["error"].isna().tolist() == [True] * 2000
