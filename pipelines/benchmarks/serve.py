"""Bench group `serve`: the cost of MLflow's interface compared with the bare model, on the same cores and images.

Batch prediction is in one process; a served request goes through `mlflow models serve`, which is another process.
"""

import base64
import functools
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch

from mpc_model.errors import InfrastructureError
from mpc_model.imaging import codecs
from mpc_model.imaging.codecs import Image
from mpc_model.localizer import Localizer, ModelSpec
from pipelines import register
from pipelines.benchmarks import timing
from pipelines.config import recipe
from pipelines.ingest import example_photos
from pipelines.runtime.retry import wait_until
from pipelines.tracking import client


def measure_serve(quick: bool) -> dict[str, Any]:
    """All measurements of the group, by part, each with its target."""
    side, count, rounds = (64, 4, 1) if quick else (512, 16, 5)
    backbone = "hrformer_tiny" if quick else "hrformer_small"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        entry = _entry(Path(folder), backbone, side)
        pictures = _pictures(count, side)
        shared = {"backbone": backbone, "input_size": side}
        return {
            "batch": shared | measure_batch(entry, Path(folder), pictures, rounds),
            "request": shared | measure_request(entry, Path(folder), pictures, 20 if quick else 100),
        }


def _entry(folder: Path, backbone: str, side: int) -> str:
    """The folder of a registered entry; `<folder>/model` is the model directory it was made of."""
    torch.manual_seed(0)
    Localizer(ModelSpec(backbone, "mlp4", side)).save(folder / "model")
    config = recipe.load(None, [f"workspace={folder / 'mpc'}", f"register.model={folder / 'model'}"])
    registered = register.register(config)
    with client.fluent(config):
        return str(mlflow.artifacts.download_artifacts(registered["uri"]))


def _pictures(count: int, side: int) -> list[Image]:
    """Crops of the photographs that installed packages ship, of as many sizes as they have."""
    crops = []
    for index, file in enumerate(example_photos.photographs()[:count]):
        crops.append(codecs.decode_image(Path(file).read_bytes(), file)[: side + 8 * index, : side + 16 * index])
    return [np.ascontiguousarray(crops[index % len(crops)]) for index in range(count)]


def measure_batch(entry: str, folder: Path, pictures: list[Image], rounds: int) -> dict[str, Any]:
    """Images/s of the loaded entry and of the bare model, from arrays and from the bytes of JPEG files (which the bare
    loop decodes by `decode_image`)."""
    model, bare = mlflow.pyfunc.load_model(entry), Localizer.load(folder / "model")
    files = [codecs.encode_jpeg(picture, 90) for picture in pictures]

    def decoded() -> list[Image]:
        return [codecs.decode_image(file, "file") for file in files]

    runs: dict[str, Callable[[], object]] = {
        "entry": lambda: model.predict(pictures),
        "bare": lambda: bare.predict(pictures),
        "entry_from_bytes": lambda: model.predict(files),
        "bare_from_bytes": lambda: bare.predict(decoded()),
    }
    for run in runs.values():
        run()
    seconds = timing.alternating(rounds, {name: functools.partial(_timed, run) for name, run in runs.items()})
    return {
        "images": len(pictures),
        **{f"{name}_images_per_second": len(pictures) / value for name, value in seconds.items()},
        "ratio": seconds["bare"] / seconds["entry"],
        "ratio_from_bytes": seconds["bare_from_bytes"] / seconds["entry_from_bytes"],
        "target": ">= 0.95",
    }


def _timed(run: Callable[[], object], round_index: int) -> float:
    return timing.seconds(run)


def measure_request(entry: str, folder: Path, pictures: list[Image], requests: int) -> dict[str, Any]:
    """Milliseconds that a request to `mlflow models serve` takes beyond the bare call, one client, one image a request.

    The server and the bare call here run one after the other, on the same cores. A request's overhead is its time less
    the median of the bare calls. The map comes back as PNG in base64.
    """
    bare, picture = Localizer.load(folder / "model"), pictures[0]
    file = codecs.encode_jpeg(picture, 90)
    body = json.dumps({"inputs": [base64.b64encode(file).decode()]}).encode()
    bare_ms, request_ms = [], []
    with _server(entry, folder / "server.log") as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for number in range(requests + 5):
            call_seconds = timing.seconds(lambda: bare.predict([codecs.decode_image(file, "file")]))
            request_seconds = timing.seconds(functools.partial(_request, connection, body))
            if number >= 5:  # the first ones warm up
                bare_ms.append(call_seconds * 1000)
                request_ms.append(request_seconds * 1000)
    overhead = np.array(request_ms) - np.median(bare_ms)
    return {
        "requests": requests,
        "request_kib": len(body) / 1024,
        "bare_ms_median": float(np.median(bare_ms)),
        "bare_ms_p99": float(np.quantile(bare_ms, 0.99)),
        "overhead_ms_median": float(np.median(overhead)),
        "overhead_ms_p99": float(np.quantile(overhead, 0.99)),
    }


def _request(connection: http.client.HTTPConnection, body: bytes) -> None:
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    document = json.loads(answer.read())
    if answer.status != 200 or document["predictions"][0]["error"] is not None:
        raise InfrastructureError(f"the server answered {answer.status}: {str(document)[:500]}")


@contextmanager
def _server(entry: str, log: Path) -> Iterator[int]:
    """The port of `mlflow models serve` with one worker, in this environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # This Python's MLflow comes first: the PATH of the shell may have another one.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", entry, "--env-manager", "local"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)], stdout=out, stderr=out, env=environment
        )
    try:
        if not wait_until(lambda: process.poll() is not None or _answers(port), 120, 0.2) or process.poll() is not None:
            raise InfrastructureError(f"mlflow models serve did not start: {log.read_text()[-500:]}")
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
