"""The only module that starts or joins Ray: the cluster at RAY_ADDRESS where it is set, else one of its own.

What workers print stays in Ray's log files. What they say to people comes through a `message_queue`.
"""

import logging
import os
import queue
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import cv2
import ray
import ray.data
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mpc_model.errors import InfrastructureError, MPCError, UserError, describe, revive
from pipelines.runtime import console, device, ray_files, signals
from pipelines.runtime.environment import RAY_HEAD_SECONDS, TASK_RETRIES, WORKER_VARIABLES, cluster_address

_own_head = ""  # where the head of a Ray answers that this process started


def connect() -> None:
    """Make sure that this process has Ray. Does nothing when it has."""
    if ray.is_initialized():
        return
    address = cluster_address()
    if address:
        _check_address(address)
    own_folder = None if address else ray_files.prepare()
    before = signal.getsignal(signal.SIGTERM)
    try:
        context = ray.init(
            # Without an address Ray would join whatever cluster a file in <temporary folder>/ray names.
            address=address or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env=_worker_environment(),
            _temp_dir=own_folder,
        )
    except SystemExit:  # how Ray answers SIGTERM while it starts
        raise KeyboardInterrupt from None
    except (ConnectionError, ray.exceptions.RayError) as error:
        words = " ".join(str(error.__cause__ or error).split())
        raise InfrastructureError(f"Ray cannot be started or joined: {words[-300:]}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray puts its own in its place
    if own_folder:
        ray_files.close(own_folder, ray.get_runtime_context().get_session_name())
        global _own_head
        _own_head = ray.get_runtime_context().gcs_address
    signals.ask_when_terminated(_is_lost)
    if context.dashboard_url:  # none where the dashboard is off
        console.say(dashboard_line(context.dashboard_url, address))
    data_context = ray.data.DataContext.get_current()
    data_context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def dashboard_line(url: str, address: str | None) -> str:
    """Where Ray's dashboard is, and how to get in. `url` is Ray's, host:port; `address` is that of a joined cluster."""
    port = url.rpartition(":")[2]
    host = address.rpartition(":")[0] if address and address != "auto" else socket.gethostname()
    token = ray_files.uses_token()
    return (
        f"ray: the dashboard is at http://{url}{', with the token that `ray get-auth-token` prints' if token else ''};"
        f" from another machine: ssh -L {port}:{url} {host}, and http://127.0.0.1:{port} there"
    )


def _worker_environment() -> dict[str, Any] | None:
    """The variables that workers of another's cluster need from here; those of our own inherit all of them."""
    given = {name: os.environ[name] for name in WORKER_VARIABLES if name in os.environ}
    return {"env_vars": given} if given and cluster_address() else None


def _is_lost(seconds: float) -> bool:
    """Wait some seconds; whether the head of a Ray that this process started is gone then."""
    time.sleep(seconds)
    if not _own_head or not ray.is_initialized():
        return False
    try:  # its process may hang on when it no longer answers
        _reach(_own_head)
    except OSError:
        return True
    return False


def _check_address(address: str) -> None:
    """Refuse what is no address. Ray tries for minutes to reach a head that is not there: ask first."""
    if address == "auto":
        return
    port = re.fullmatch(r"[^/\s]+:(\d{1,5})", address)
    if not port or int(port[1]) > 65535:
        raise UserError(
            f"RAY_ADDRESS={address!r} is no head of a cluster: give host:port (not ray:// or http://), auto for that of"
            " this machine, or unset it"
        )
    try:
        _reach(address)
    except OSError as error:
        raise InfrastructureError(
            f"no Ray head answers at RAY_ADDRESS={address} ({error}); start it, or unset it"
        ) from None


def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=RAY_HEAD_SECONDS).close()


def map_unordered(
    function: Callable[[Any, int], bytes], shared: Any, pieces: Iterable[int]
) -> Iterator[tuple[int, bytes]]:
    """`function(shared, piece)` for every piece on the cluster's cores; (piece, result) as they come.

    `shared` is stored once a machine. A worker or a machine that is lost has its pieces done again elsewhere; a failure
    of ours is raised here as it was there, without a traceback of Ray's around it.

    Plain tasks, not a Ray Data pipeline: nothing but a few bytes flows between them, and Ray Data leaves a worker idle
    for a fifth of a second after each task and starts the second worker a second late (6% of a build on two cores).
    """
    connect()
    stored = ray.put(shared)
    task = ray.remote(max_retries=TASK_RETRIES)(_guarded)
    todo, running = iter(pieces), dict[Any, int]()
    while True:
        # Two for each core there is now: a worker always finds the next one, and a cluster sees what to grow for.
        wanted = 2 * max(1, int(ray.cluster_resources().get("CPU", 1))) - len(running)
        running |= {task.remote(function, stored, piece): piece for piece in islice(todo, max(0, wanted))}
        if not running:
            return
        (done, *_), _ = ray.wait(list(running))
        try:
            result, failure = ray.get(done)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            raise InfrastructureError(f"a piece of work was lost {TASK_RETRIES + 1} times, at last: {error}") from None
        if failure:
            raise revive(failure)  # the few that are running are let go: cancelling them can abort this process
        yield running.pop(done), result


def _guarded(function: Callable[[Any, int], bytes], shared: Any, piece: int) -> tuple[bytes, dict[str, str] | None]:
    """A result, or a failure as a value: raised inside a task, it would come with a traceback."""
    cv2.setNumThreads(1)  # a task has one core; OpenCV would take all
    try:
        return function(shared, piece), None
    except MPCError as error:
        return b"", describe(error)


def model_pool(tasks: int) -> tuple[dict[str, Any], int]:
    """Arguments of a Ray Data map whose workers each hold a model, and the cores of each worker (device.pool_size).

    A worker on a GPU claims none of its cores: it would wait for them where others have claimed them.
    """
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    size, cores, gpus = device.pool_size(tasks, machines)
    claimed = {"num_gpus": gpus} if gpus else {"num_cpus": cores}
    return {"compute": ray.data.ActorPoolStrategy(size=size), **claimed}, cores


def own_group() -> str:
    """The placement group that holds the resources of this process, for `free_group`; empty where there is none."""
    group = get_current_placement_group()
    return group.id.hex() if group else ""


def free_group(group: str) -> None:
    """End what runs in a placement group and give its resources back."""
    remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))


def queue_here() -> Queue:
    """A queue that any worker can reach and that lives on this machine: others may be lost."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


@contextmanager
def message_queue(on_message: Callable[[Any], None]) -> Iterator[Any]:
    """A queue for workers. While the block runs, a thread of this process calls `on_message` with each item."""
    messages = queue_here()
    done = threading.Event()

    def receive() -> None:
        while not (done.is_set() and messages.empty()):
            try:
                on_message(messages.get(timeout=0.5))
            except queue.Empty:
                continue
            except ray.exceptions.RayError:  # the queue is lost with Ray; whoever waits for Ray gets the error
                return

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    try:
        yield messages
    finally:
        done.set()
        thread.join(timeout=10)
        messages.shutdown()
