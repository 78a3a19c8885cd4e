"""Tasks and messages over Ray: results as they come, failures of ours as they were raised."""

import socket
from typing import Any

import pytest

from mpc_model.errors import DataError, UserError
from pipelines.runtime import cluster, console


def test_results_come_with_their_pieces_whatever_the_order(ray_session: None) -> None:
    done = dict(cluster.map_unordered(lambda shared, piece: bytes([shared + piece]), 10, range(7)))
    assert done == {piece: bytes([10 + piece]) for piece in range(7)}
    assert list(cluster.map_unordered(lambda shared, piece: b"", None, ())) == []


def test_a_failure_of_ours_is_raised_as_it_was_in_the_task(ray_session: None) -> None:
    def fails(shared: Any, piece: int) -> bytes:
        if piece == 2:
            raise DataError("sample 2 is damaged")
        return b""

    with pytest.raises(DataError, match=r"^sample 2 is damaged$"):
        list(cluster.map_unordered(fails, None, range(4)))


def test_messages_of_workers_are_handled_before_the_block_ends(ray_session: None) -> None:
    import ray

    received: list[console.Line] = []
    with cluster.message_queue(received.append) as messages:
        send = ray.remote(lambda queue, number: queue.put(console.Line(f"build: {number}", 20, number)))
        ray.get([send.remote(messages, number) for number in range(3)])
    assert sorted(line.rank or 0 for line in received) == [0, 1, 2]


def test_workers_of_anothers_cluster_get_the_variables_of_this_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPC_LOG", "debug")
    monkeypatch.delenv("MPC_LOG_FORMAT", raising=False)
    monkeypatch.delenv("MPC_S3_TIMEOUT", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster._worker_environment() is None  # they inherit them
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert cluster._worker_environment() == {"env_vars": {"MPC_LOG": "debug"}}


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "head", "head:70000", "a b:1", "head:"])
def test_an_address_that_is_no_head_of_a_cluster_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="is no head of a cluster: give host:port"):
        cluster._check_address(address)


@pytest.mark.parametrize(
    ("url", "address", "host"), [("127.0.0.1:8266", None, socket.gethostname()), ("10.0.0.5:8265", "head:6379", "head")]
)
def test_the_line_of_the_dashboard_says_how_to_get_in(
    monkeypatch: pytest.MonkeyPatch, url: str, address: str | None, host: str
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    port = url[-4:]
    line = cluster.dashboard_line(url, address)
    assert line.startswith(f"ray: the dashboard is at http://{url}, with the token that `ray get-auth-token` prints")
    assert f"ssh -L {port}:{url} {host}, and http://127.0.0.1:{port} there" in line
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "token" not in cluster.dashboard_line(url, address)
