"""`mpc view`: pages of outputs over HTTP, on this machine alone, and nothing else of the machine."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import evaluated
import pytest
import recorded

from pipelines import cli
from pipelines.pages import evaluation
from pipelines.runtime import storage, uris
from pipelines.view import Site, server_of

MPC = Path(sys.executable).with_name("mpc")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    recorded.search(root / "my tune")
    output = evaluated.write(root / "evaluate", [evaluated.row(1)])
    recorded.output(output, "evaluate", **evaluated.metrics(pictures=[]))
    (root / "mlflow.json").write_text("not of an output")
    (root / "evaluate" / "model.safetensors").write_text("weights")
    (tmp_path / "secret.json").write_text("secret")
    (root / "evaluate" / "link.json").symlink_to(tmp_path / "secret.json")
    return root


@pytest.fixture
def port(workspace: Path) -> Iterator[int]:
    with server_of(Site(str(workspace))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def ask(port: int, path: str, method: str = "GET", host: str = "") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, text, {name.lower(): value for name, value in answer.getheaders()}


def test_a_folder_has_an_index_and_each_output_its_page(port: int, workspace: Path) -> None:
    status, text, headers = ask(port, "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert 'href="my%20tune/"' in text
    assert "Ranking" in ask(port, "/my%20tune/")[1]
    status, _, headers = ask(port, "/my%20tune")
    assert (status, headers["location"]) == (302, "/my%20tune/")
    assert "Evaluation of photos/test" in ask(port, "/evaluate/")[1]
    assert not (workspace / "evaluate" / "report.html").exists()
    assert ask(port, "/evaluate/metrics.json")[1] == (workspace / "evaluate" / "metrics.json").read_text()
    status, text, headers = ask(port, "/my%20tune/curves.png", "HEAD")
    assert (status, text, headers["content-type"]) == (200, "", "image/png")
    assert int(headers["content-length"]) == (workspace / "my tune" / "curves.png").stat().st_size
    assert ask(port, "/favicon.ico")[:2] == (204, "")
    recorded.training(workspace / "finetune")
    assert "finetune" in ask(port, "/")[1]
    assert "Curves" in ask(port, "/finetune/")[1]


@pytest.mark.parametrize(
    "path",
    [
        "/evaluate/../../secret.json", "/evaluate/%2e%2e/%2e%2e/secret.json", "/evaluate/..%2f..%2fsecret.json",
        "//etc/passwd", "/etc/passwd", "/mlflow.json", "/evaluate/link.json", "/evaluate/model.safetensors",
        "/evaluate/.hidden.json", "/evaluate/%00.json", "/evaluate/%5cx2e%5cx2e/secret.json",
        "/nothing/", "/evaluate//metrics.json", "/evaluate/missing.json", "/evaluate/" + "a" * 300 + ".json",
    ],
)  # fmt: skip
def test_nothing_else_is_served(port: int, path: str) -> None:
    status, text, _ = ask(port, path)
    assert status in (404, 500)
    assert "secret" not in text.replace("secret.json", "")
    assert "not of an output" not in text
    assert "weights" not in text


def test_only_this_machine_asks_under_its_own_name_and_only_reads(port: int) -> None:
    assert ask(port, "/", host="evil.example")[0] == 421
    assert ask(port, "/", host=f"127.0.0.1.evil.example:{port}")[0] == 421
    assert ask(port, "/", host="localhost:9000")[0] == 200  # through a tunnel
    assert ask(port, "/", host="[")[0] == 421
    for request, status in (
        ("GET http://[/ HTTP/1.1\r\nHost: localhost", "400"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example", "421"),
    ):
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            connection.sendall(f"{request}\r\nConnection: close\r\n\r\n".encode())
            assert connection.recv(64).decode().startswith(f"HTTP/1.1 {status} ")
    assert ask(port, "/", method="POST")[0] == 501
    headers = ask(port, "/")[2]
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["x-content-type-options"] == "nosniff"


def test_a_damaged_output_is_a_page_that_says_so(port: int, workspace: Path) -> None:
    (workspace / "evaluate" / "metrics.json").write_text("{")
    status, text, _ = ask(port, "/evaluate/")
    assert status == 500
    assert "metrics.json is damaged" in text
    assert ask(port, "/my%20tune/")[0] == 200


def test_it_reads_from_object_storage_and_writes_nothing(s3: str, workspace: Path) -> None:
    root = f"{s3}/view"
    for file in ("metrics.json", "images.parquet", "record.json"):
        storage.write_bytes(uris.join(root, "evaluate", file), (workspace / "evaluate" / file).read_bytes())
    before = storage.list_stamps(root)
    site = Site(root)
    assert b'href="evaluate/"' in site.answer("/").content
    assert site.answer("/evaluate/").content.decode() == evaluation.made(uris.join(root, "evaluate"))
    assert site.answer("/evaluate/metrics.json").file == uris.join(root, "evaluate/metrics.json")
    assert site.answer("/evaluate/../secret.json").status == 404
    assert storage.list_stamps(root) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/no/such/output"], "nothing found at /no/such/output"),
        (["{empty}"], "there is nothing to view at"),
        (["{workspace}", "--port", "x"], "--port is a number up to 65535, not 'x'"),
        (["{workspace}", "--port", "{taken}"], "cannot serve at port"),
    ],
)
def test_wrong_input_is_one_line(
    workspace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        names = {"workspace": workspace, "empty": tmp_path / "empty", "taken": taken.getsockname()[1]}
        assert cli.main(["view", "--no-browser", *(argument.format(**names) for argument in arguments)]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]


def test_it_serves_until_it_is_interrupted(workspace: Path) -> None:
    command = [MPC, "view", workspace, "--no-browser"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "MPC_LOG": "info"}
    )
    assert process.stdout
    address = process.stdout.readline().strip()
    port = int(address.removeprefix("http://127.0.0.1:").removesuffix("/"))
    assert ask(port, "/")[0] == 200
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"is at {address}; Ctrl-C ends it" in said
    assert "Traceback" not in said
