"""The only module that starts or joins Ray: the cluster at RAY_ADDRESS where it is set, else one of its own.

What workers print stays in Ray's log files. What they say to people comes through a `message_queue`.
"""

import logging
import math
import os
import queue
import re
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypedDict

import ray
import ray.data
from ray._raylet import PlacementGroupID
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.annotations import RayDeprecationWarning
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mpc_model.errors import InfrastructureError, UserError
from pipelines.runtime import console, ray_files, signals
from pipelines.runtime.environment import (
    CAPACITY_SECONDS,
    RAY_HEAD_SECONDS,
    TASK_RETRIES,
    WORKER_VARIABLES,
    cluster_address,
)

IN_FLIGHT = 2
"""Rows at a worker of Ray Data: one is worked on, the next one waits there and not at the driver, which looks ten
times a second."""
_INIT_DEATHS = 2
"""Workers of a pool that may fail one after another while they are made. Ray's core has restarted each of them
TASK_RETRIES times where its process died."""
WATCH_SECONDS = 5.0
"""How often a job looks whether its workers run (`capacity_watched`)."""
_LONGEST = 400
"""Characters that are shown of Ray's message."""

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
    quiet()


def quiet() -> None:
    """Keep Ray Data from printing: a job has one progress line, its own."""
    ray.data.DataContext.get_current().enable_progress_bars = False
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


def map_rows(
    verb: str,
    worker: Callable[..., Any],
    shared: Any,
    rows: Sequence[Mapping[str, Any]],
    memory: int = 0,
    in_flight: int = IN_FLIGHT,
) -> Generator[Any]:
    """What `worker`, a class of Ray Data's callables, returns for each row, as they come: one core's work each.

    A worker is made once in each process, as `worker(load)`: `load()` fetches `shared`. `memory` is what one needs
    (bytes). The pool grows with the cluster, and `in_flight` rows are at each worker, so that it never waits for this
    process. A worker or a machine that is lost has its rows done again elsewhere.

    Raises InfrastructureError where a row, or the pool, was lost again and again. Closed early, it ends the workers.
    """
    connect()
    if not rows:
        return
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    memory = min(memory, int(max(machine.get("memory", 0) for machine in machines)))  # an estimate must not stop a job
    pool = ray.data.ActorPoolStrategy(
        min_size=1,
        initial_size=max(1, min(len(rows), _room(machines, memory))),
        max_size=len(rows),
        max_tasks_in_flight_per_actor=in_flight,
    )
    with warnings.catch_warnings():  # of options that Ray 2.64 will take in another way; 2.60 has no other
        warnings.simplefilter("ignore", RayDeprecationWarning)
        mapped = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(
            worker,
            fn_constructor_args=(partial(ray.get, ray.put(shared)),),
            compute=pool,
            num_cpus=1,
            memory=memory,
            max_restarts=TASK_RETRIES,
            max_task_retries=TASK_RETRIES,
        )
    for table in tables(mapped, verb, lambda words: f"a worker was lost {TASK_RETRIES + 1} times, at last: {words}"):
        yield from table.to_pylist()


def tables(dataset: ray.data.Dataset, verb: str, lost: Callable[[str], str]) -> Iterator[Any]:
    """The Arrow table of each task of a Ray dataset, at once when it is done. `configured` is done here.

    Where the workers were lost: InfrastructureError with `lost(words)`, of Ray's words. What a task raised itself is
    raised as it is.
    """
    try:
        yield from configured(dataset, verb).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise InfrastructureError(lost(" ".join(str(error).split())[:_LONGEST])) from error


def _room(machines: list[dict[str, float]], memory: int) -> int:
    """How many workers of one core and so many bytes the machines have room for, were they free."""
    per_bytes = (machine.get("memory", 0) // memory if memory else math.inf for machine in machines)
    return sum(int(min(machine.get("CPU", 0), fit)) for machine, fit in zip(machines, per_bytes, strict=True))


def configured(dataset: ray.data.Dataset, verb: str) -> ray.data.Dataset:
    """The dataset, with settings of its own: it waits for machines as long as it takes, and says what it waits for
    (`CapacityWatch`); a worker that dies while it is made is replaced."""
    context = dataset.context
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = -1
    context.max_consecutive_actor_init_deaths = _INIT_DEATHS
    context.custom_execution_callback_classes = [partial(_PoolsWatch, verb)]  # it is called
    return dataset


class CapacityWatch:
    """Says every minute that a job waits for the cluster: what a worker needs, and what the cluster has.

    Call `check` often, with whether anything of the job runs.
    """

    def __init__(self, verb: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._verb, self._clock = verb, clock
        self._since = self._warned = clock()

    def check(self, runs: bool, cpus: float, memory: float = 0, gpus: float = 0, where: str = "") -> None:
        """`cpus`, `memory` (bytes) and `gpus` are what one worker, or the smallest group of them, needs; `where` says
        on which machines, if not on any."""
        now = self._clock()
        if runs:
            self._since = self._warned = now
        elif now - self._warned >= CAPACITY_SECONDS:
            self._warned = now
            waited = console.duration(now - self._since)
            console.warn(f"{self._verb}: waiting for a worker for {waited}: {_shortage(cpus, memory, gpus, where)}")


@contextmanager
def capacity_watched(
    verb: str, runs: Callable[[], bool | None], resources: Mapping[str, float], where: str = ""
) -> Iterator[None]:
    """Say every minute what a job waits for (`CapacityWatch`) while the block runs: a thread asks whether anything of
    it `runs`; None where that is not known at the moment. `resources` are what it needs, by Ray's names."""
    watch, ended = CapacityWatch(verb), threading.Event()

    def look() -> None:
        while not ended.wait(WATCH_SECONDS):
            with suppress(ray.exceptions.RayError):  # whoever waits for Ray gets the error
                if (state := runs()) is not None:
                    watch.check(state, resources.get("CPU", 0), gpus=resources.get("GPU", 0), where=where)

    threading.Thread(target=look, name="capacity", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def group_runs(worker: Mapping[str, float]) -> bool | None:
    """Whether a placement group of workers that each need so much has its resources; None where there is no such."""
    groups = placement_group_table().values()
    states = {
        group["state"] for group in groups if all(worker.items() <= one.items() for one in group["bundles"].values())
    }
    return "CREATED" in states or (False if states & {"PENDING", "RESCHEDULING"} else None)


def _shortage(cpus: float, memory: float, gpus: float, where: str) -> str:
    """What is needed, and what the cluster has and has free, in words."""
    needed = {"CPU": cpus, "GPU": gpus, "memory": memory}
    names = [name for name, amount in needed.items() if amount]
    total, free = ray.cluster_resources(), ray.available_resources()
    has, has_free = (_amounts({name: of.get(name, 0) for name in names}) for of in (total, free))
    wanted = _amounts({name: needed[name] for name in names})
    return f"it needs {wanted}{where}; the cluster has {has}, free are {has_free}"


def _amounts(resources: dict[str, float]) -> str:
    """`1 CPU and 2.5 GiB of memory`."""
    return " and ".join(
        f"{amount / 2**30:.1f} GiB of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in resources.items()
    )


class _PoolsWatch(ExecutionCallback):
    """Ray Data calls it at each of its steps: looks whether each pool of workers has one that runs."""

    def __init__(self, verb: str) -> None:
        self._verb, self._watches = verb, dict[str, CapacityWatch]()

    def on_execution_step(self, executor: Any) -> None:
        for operator in executor._topology:
            workers, needed = operator.get_actor_info(), operator.min_scheduling_resources()
            waits = workers.pending + workers.restarting > 0 and not workers.running
            watch = self._watches.setdefault(operator.id, CapacityWatch(self._verb))
            watch.check(not waits, needed.cpu, needed.memory, needed.gpu)


def own_group() -> str:
    """The placement group that holds the resources of this process, for `free_group`; empty where there is none."""
    group = get_current_placement_group()
    return group.id.hex() if group else ""


def free_group(group: str) -> None:
    """End what runs in a placement group and give its resources back."""
    remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))


class ActorOptions(TypedDict):
    """Options of Ray for an actor."""

    num_cpus: int
    scheduling_strategy: NodeAffinitySchedulingStrategy


def on_this_machine() -> ActorOptions:
    """The options of an actor that lives on this machine, which a job cannot lose anyway, and claims nothing of it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ActorOptions(num_cpus=0, scheduling_strategy=here)


def queue_here() -> Queue:
    """A queue that any worker can reach and that lives on this machine: others may be lost."""
    return Queue(actor_options=on_this_machine())


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
