"""MLflow's own commands on a registered entry: a server process, a prediction from a file, a fresh environment."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pytest
from support import tiny

from mpc_model.imaging import codecs
from mpc_model.localizer import Localizer
from pipelines import register
from pipelines.config import recipe
from pipelines.tracking import client

MODEL = "models:/mpc-localizer@candidate"
LOCAL = ("--env-manager", "local")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a consumer: where the registry is; and the folders of the model and of its entry."""
    folder = tmp_path_factory.mktemp("serve")
    tiny(None).save(folder / "model")
    config = recipe.load(None, [f"workspace={folder / 'workspace'}", f"register.model={folder / 'model'}"])
    register.register(config)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with client.fluent(config):
        entry = mlflow.artifacts.download_artifacts(MODEL)
    places = {"MLFLOW_TRACKING_URI": str(config.tracking.uri), "MODEL": str(folder / "model"), "ENTRY": str(entry)}
    return {**os.environ, "PATH": path, **places}


@pytest.fixture(scope="module")
def server(registry: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `mlflow models serve`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as out:
        command = ["mlflow", "models", "serve", "-m", MODEL, *LOCAL, "-h", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, env=registry, stdout=out, stderr=out, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not answers(f"{address}/ping"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"{address}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


def ask(address: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    with urllib.request.urlopen(request, timeout=60) as answer:
        return list(json.loads(answer.read(), parse_constant=no_constant)["predictions"])


@pytest.fixture(scope="module")
def picture(photos: Path) -> np.ndarray:
    return codecs.decode_image((photos / "coffee.png").read_bytes(), "coffee")[:64, :80].copy()


def encoded(picture: np.ndarray) -> str:
    return base64.b64encode(codecs.encode_png(picture)).decode()


def level(answer: dict[str, Any]) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(answer["map"]), np.uint8), cv2.IMREAD_UNCHANGED)


def test_a_server_maps_base64_images_and_answers_for_each(
    server: str, registry: dict[str, str], picture: np.ndarray
) -> None:
    (expected,) = Localizer.load(registry["MODEL"]).predict([picture])
    rows = [{"image": encoded(picture)}, {"image": encoded(picture)[:40]}, {"image": "/etc/hostname"}]
    good, cut, path = ask(server, {"dataframe_records": rows, "params": {"threshold": 0.6}})
    assert np.abs(level(good) - expected * 255).max() <= 0.51
    mask = codecs.decode_mask(base64.b64decode(good["mask"]), "mask")
    assert (mask != (expected > 0.6)).mean() < 0.001  # rounding
    assert (good["height"], good["width"], good["error"]) == (64, 80, None)
    assert cut["map"] is None
    assert "image 1" in cut["error"]
    assert "is not base64 of an image file" in path["error"]  # a client reads no file of the server


def test_a_server_takes_every_format_of_mlflow(server: str, picture: np.ndarray) -> None:
    text = encoded(picture)
    scores = {
        ask(server, body)[0]["score"]
        for body in (
            {"inputs": [text]},
            {"inputs": {"image": [text]}},
            {"instances": [{"image": text}]},
            {"dataframe_split": {"columns": ["image"], "data": [[text]]}},
            {"inputs": [f"data:image/png;base64,{text}"]},
            {"inputs": picture[None].tolist()},
        )
    }
    assert len(scores) == 1


def test_a_server_gives_exact_numbers_on_request(server: str, registry: dict[str, str], picture: np.ndarray) -> None:
    (expected,) = Localizer.load(registry["MODEL"]).predict([picture])
    (answer,) = ask(server, {"inputs": [encoded(picture)], "params": {"encoding": "array"}})
    np.testing.assert_allclose(np.array(answer["map"], np.float32), expected, atol=1e-6)


def test_a_server_refuses_impossible_parameters(server: str, picture: np.ndarray) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        ask(server, {"inputs": [encoded(picture)], "params": {"threshold": 7.0}})
    assert refusal.value.code == 400
    assert "threshold is 7.0" in refusal.value.read().decode()


def test_mlflow_models_predict_reads_a_file(registry: dict[str, str], picture: np.ndarray, tmp_path: Path) -> None:
    body = {"dataframe_records": [{"image": encoded(picture)}]}
    (tmp_path / "in.json").write_text(json.dumps(body))
    command = ["mlflow", "models", "predict", "-m", MODEL, *LOCAL, "-t", "json", "-i", "in.json", "-o", "out.json"]
    done = subprocess.run(command, env=registry, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads((tmp_path / "out.json").read_text())["predictions"]
    (expected,) = Localizer.load(registry["MODEL"]).predict([picture])
    assert np.abs(level(answer) - expected * 255).max() <= 0.51


@pytest.mark.slow
def test_a_fresh_environment_with_the_entrys_requirements_loads_it(
    registry: dict[str, str], picture: np.ndarray, tmp_path: Path
) -> None:
    """Nothing but requirements.txt of the entry is installed: no Ray, no package of ours."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "-r", f"{registry['ENTRY']}/requirements.txt"]
    once = {**os.environ, "PIP_RETRIES": "0"}  # where torch's index of CPU builds cannot be reached
    done = subprocess.run(install, capture_output=True, text=True, timeout=550, env=once)
    assert done.returncode == 0, done.stderr
    np.save(tmp_path / "image.npy", picture)
    script = f"""
import importlib.util, mlflow, numpy as np
assert not [name for name in ("ray", "pipelines", "mpc_model") if importlib.util.find_spec(name)]
table = mlflow.pyfunc.load_model({MODEL!r}).predict([np.load("image.npy"), b"no image"])
np.save("map.npy", table["map"][0])
print(table["error"].tolist())
"""
    kept = {key: value for key, value in registry.items() if key not in ("PYTHONPATH", "MODEL")}
    done = subprocess.run(
        [python, "-c", script],
        env={**kept, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "[None, 'image 1: not an image" in done.stdout
    (expected,) = Localizer.load(registry["MODEL"]).predict([picture])
    np.testing.assert_allclose(np.load(tmp_path / "map.npy"), expected, atol=1e-5)
