"""What several tests share: real photographs, one Ray for the session, a small built dataset, and an S3 server."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import cv2
import pytest
import skimage.data

if TYPE_CHECKING:
    from two_ranks import TwoRanks

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("MLFLOW_TRACKING_URI", None)

from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.runtime import environment, tracking_uri
from pipelines.tracking import watchdog

watchdog.PATIENCE_SECONDS = 1.0  # of this process: what it started ends with it, also where its MLflow is gone

MODEL_TESTS = Path(__file__).with_name("model")
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "camera", "hubble_deep_field")


LONGEST = ("test_terminal.py", "test_outcomes.py", "test_adapt.py", "test_class_models.py")
"""Files of the end of the list that take long: they come first, so that no process is left alone with one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)  # stable


@pytest.fixture(autouse=True)
def no_store_of_the_users() -> Iterator[None]:
    """No test writes to the MLflow that the user's variables name, nor to one that an earlier test named: MLflow sets
    these variables, too."""
    names = (tracking_uri.VARIABLE, *environment.UNUSED_MLFLOW)
    for name in names:
        os.environ.pop(name, None)
    yield
    for name in names:
        os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def quick_stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """SQLite stores that this process makes are copies of the first one: its tables take MLflow five seconds."""
    if all(item.path.is_relative_to(MODEL_TESTS) for item in request.session.items):  # they need no MLflow
        yield
        return
    from pipelines.tracking import client

    first, lock_file = str(tmp_path_factory.mktemp("first") / "mlflow.db"), client._open_lock_file

    def copied(database: str) -> IO[str]:
        lock = lock_file(database)
        if database != first and not os.path.exists(database):
            client.client(recipe.load(None, [f"tracking.uri=sqlite:///{first}"]))  # made once
            shutil.copyfile(first, database)
        return lock

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_open_lock_file", copied)
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real photographs, 192 pixels high, as PNG."""
    folder = tmp_path_factory.mktemp("photos")
    for name in PHOTOS:
        image = getattr(skimage.data, name)()[:192, :256]
        cv2.imwrite(str(folder / f"{name}.png"), image[..., ::-1] if image.ndim == 3 else image)
    return folder


@pytest.fixture(scope="session")
def settings(photos: Path) -> list[str]:
    """Overrides of a pipeline that takes seconds: tiny network, 64-pixel crops, in this process where possible."""
    source = {
        "name": "photos",
        "layout": "photos",
        "location": str(photos),
        "crop": 64,
        "samples_per_photo": 5,
        "forge": {"splice": 0.4, "copy_move": 0.2, "copy_move_outline": 0.0, "remove": 0.2},
    }
    return [
        f"build.sources=[{_flow(source)}]",
        "build.split={train: 0.5, validation: 0.25, test: 0.25}",
        "build.views={policy: light, count: 1}",
        "build.shard_samples=6",
        "build.row_group=4",
        "build.max_reject_fraction=0.2",
        "model={backbone: hrformer_tiny, head: mlp4, input_size: 64}",
        "train={workers: 0, batch_size: 4, validation_images: 6}",
        "pretrain={epochs: 1, anchors_per_class: 64}",
        "finetune={epochs: 1, learning_rate: 1.0e-3}",
    ]


def _flow(value: object) -> str:
    import json

    return json.dumps(value)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests that need it."""
    from pipelines.runtime import cluster

    cluster.connect()
    import ray

    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[TwoRanks]":
    """Two processes of one group, for all tests of what ranks exchange."""
    from two_ranks import TwoRanks

    ranks = TwoRanks(tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.stop()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, settings: list[str], ray_session: None) -> Config:
    """The config of a dataset that is built; tests must not change it."""
    from pipelines.build import build

    config = recipe.load(None, [f"workspace={tmp_path_factory.mktemp('built')}", *settings])
    build(config)
    return config


@pytest.fixture(scope="session")
def target(built: Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another dataset, for adaptation: other forgeries of the same photographs."""
    from pipelines.build import build

    folder = tmp_path_factory.mktemp("target")
    build(recipe.revised(built, f"workspace={folder}", f"build.output={folder / 'dataset'}", "seed=9"))
    return str(folder / "dataset")


@pytest.fixture(scope="session")
def trained(built: Config) -> Config:
    """The config of a pipeline whose two training stages are done; tests must not change it."""
    from pipelines.finetune import finetune
    from pipelines.pretrain import pretrain

    pretrain(built)
    finetune(built)
    return built


@pytest.fixture(scope="session")
def registered(trained: Config) -> dict[str, str]:
    """The registered model version of the trained pipeline, with its evaluation; tests must not change it."""
    from pipelines.evaluate import evaluate
    from pipelines.register import register

    evaluate(trained)
    return register(trained)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket of an S3 server on a free port of this machine, with the AWS variables set to reach it."""
    import boto3

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    variables = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    script = Path(sys.executable).with_name("moto_server")
    server = subprocess.Popen([script, "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        _wait_for(address, server)
        boto3.client("s3", endpoint_url=address, region_name="us-east-1").create_bucket(Bucket="mpc")
        yield "s3://mpc"
    finally:
        server.terminate()
        server.wait(timeout=20)
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def _wait_for(address: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the S3 server ended by itself"
        try:
            urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"no S3 server at {address}")
