"""Messages over Ray, addresses of clusters, and what is said while a cluster has no room."""

import socket

import pytest
from support import FakeClock

from mpc_model.errors import UserError
from pipelines.runtime import cluster, console


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


def test_what_is_waited_for_is_said_every_minute_until_a_worker_runs(
    ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    time = FakeClock()
    watch = cluster.CapacityWatch("build", time.clock.now)

    def lines_after(seconds: float, runs: bool = False) -> list[str]:
        time.seconds += seconds
        watch.check(runs, cpus=500, memory=3 * 2**40)
        return capsys.readouterr().err.splitlines()

    assert lines_after(59) == []
    (line,) = lines_after(1)
    assert (
        "build: warning: waiting for a worker for 1m00s: it needs 500 CPU and 3072.0 GiB of memory; the cluster has "
        in line
    )
    assert lines_after(59) == []
    assert "for 2m00s" in lines_after(1)[0]
    assert lines_after(60, runs=True) == lines_after(59) == []  # the minute counts from the last worker that ran
    assert "for 1m00s" in lines_after(1)[0]


def test_a_placement_group_without_its_resources_does_not_run(ray_session: None) -> None:
    from ray.util.placement_group import placement_group

    needs = {"CPU": 0.125, "memory": 2.0**20}  # no other group has these
    assert cluster.group_runs(needs) is None
    waiting = placement_group([needs | {"no_such_resource": 1}])
    assert cluster.group_runs(needs) is False
    placed = placement_group([needs])
    assert placed.wait(30)
    assert cluster.group_runs(needs) is True
    for group in (waiting, placed):
        cluster.free_group(group.id.hex())
