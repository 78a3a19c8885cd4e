"""Training that loses workers, hosts, its driver or its storage goes on from the last checkpoint, or says why it stops.

Every drill runs the real command and kills real processes. What is compared with a run that nobody disturbed: the
weights bit by bit, and the MLflow run: one, each step once, the same values.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import torch
from drills import PATIENCE, Driver, environment_of, points, statuses
from fault_proxy import FaultProxy
from training_runs import tensors
from two_hosts import TwoHosts

from pipelines.artifacts import checkpoint
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset import order
from pipelines.training import validation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LOST = r"worker \d (was lost|lost its connection to another); going back to the last checkpoint"
RESUMED = r"resuming from step (\d+), epoch"


class Outcome(NamedTuple):
    """What two runs are compared by."""

    weights: bytes
    losses: list[tuple[int, float]]
    validation: list[tuple[int, float]]
    history: list[dict[str, float]]


def outcome(folder: Path) -> Outcome:
    """Of a workspace whose run is done; that it has one whole MLflow run is asserted here."""
    assert statuses(folder) == ["FINISHED"]
    output = folder / "pretrain"
    record = json.loads((output / "record.json").read_text())
    assert record["finished"]
    assert not (output / "ray").exists()
    assert not (output / "lease").exists()
    losses = points(folder)
    steps = [step for step, _ in losses]
    assert steps == sorted(set(steps))
    last = checkpoint.folder(str(output), record["results"]["step"])
    validation = points(folder, "validation/kmeans_f1")
    return Outcome(Path(last, "model.safetensors").read_bytes(), losses, validation, record["results"]["history"])


@pytest.fixture(scope="module")
def the_recipe(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Two epochs of 32 steps on two workers with one sample each, over a dataset that is built."""
    folder = tmp_path_factory.mktemp("recipe")
    source = {"name": "photos", "layout": "photos", "location": str(photos), "crop": 64, "samples_per_photo": 32}
    source["forge"] = {"splice": 0.4, "copy_move": 0.2, "copy_move_outline": 0.0, "remove": 0.2}
    split = {"train": 0.5, "validation": 0.25, "test": 0.25}
    shape = {"views": {"policy": "light", "count": 1}, "shard_samples": 32, "row_group": 4, "max_reject_fraction": 0.2}
    train = {"workers": 2, "batch_size": 1, "checkpoint_every": 12, "validation_images": 6, "loader_threads": 1}
    values = {
        "build": {"sources": [source], "split": split, "output": str(folder / "dataset"), **shape},
        "model": {"backbone": "hrformer_tiny", "input_size": 64},
        "train": {**train, "pictures_every": None},
        "pretrain": {"epochs": 2, "anchors_per_class": 64, "schedule": "constant"},
    }
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(values))
    command = [sys.executable, "-m", "pipelines.cli", "build", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return file


@pytest.fixture
def start(the_recipe: Path) -> Iterator[Callable[..., Driver]]:
    """Starts commands; whatever they leave behind is killed at the end."""
    started: list[Driver] = []

    def one(folder: Path, *more: str, **how: Any) -> Driver:
        started.append(Driver(the_recipe, folder, *more, **how))
        return started[-1]

    yield one
    for driver in started:
        driver.kill()


@pytest.fixture(scope="module")
def whole(the_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Two workers that nobody disturbed."""
    driver = Driver(the_recipe, tmp_path_factory.mktemp("whole"))
    try:
        driver.finish()
    finally:
        driver.kill()
    return outcome(driver.folder)


def test_workers_that_are_killed_are_replaced(tmp_path: Path, whole: Outcome, start: Callable[..., Driver]) -> None:
    """Rank 1 in the first epoch, rank 0 in the second, each some steps past the last checkpoint."""
    driver = start(tmp_path / "run")
    for rank, step, kept in ((1, 20, 12), (0, 40, 36)):
        driver.wait_for_step(step)
        os.kill(driver.worker(rank), signal.SIGKILL)
        driver.wait(lambda times=rank: len(re.findall(LOST, driver.said)) == 2 - times)
        driver.wait(lambda times=rank: len(re.findall(RESUMED, driver.said)) == 2 - times)
        assert int(re.findall(RESUMED, driver.said)[-1]) >= kept  # a later checkpoint may have been there by then
    driver.finish()
    assert outcome(driver.folder) == whole


def test_a_killed_driver_and_a_killed_machine_are_succeeded(
    tmp_path: Path, whole: Outcome, start: Callable[..., Driver]
) -> None:
    """The driver alone, then all there is; then the newest checkpoint is found to be damaged."""
    first = start(tmp_path / "run")
    first.wait_for_step(20)
    first.process.kill()
    first.process.wait()
    second = start(tmp_path / "run")  # at once: workers of the first may still be there
    second.wait_for_step(40)
    assert not first.family()
    assert "an unfinished run is at" in second.said
    assert "may be writing" not in second.said
    second.kill()
    *_, older, newest = checkpoint.steps(str(tmp_path / "run" / "pretrain"))
    file = Path(checkpoint.folder(str(tmp_path / "run" / "pretrain"), newest), "state.pt")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    third = start(tmp_path / "run")
    said = third.finish()
    assert said.count("is damaged (state.pt); looking at the one before") == 1
    assert f"resuming from step {older}" in said
    assert outcome(tmp_path / "run") == whole


def test_what_a_supervision_has_besides_the_model_is_there_again_after_kills(
    tmp_path: Path, start: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 2 by SGD with a queue, prototypes, a teacher and a second decoder, on two workers: one of them is killed,
    and then all there is. Every tensor of the last checkpoint is that of a run that nobody disturbed."""
    helpers = Path(__file__).parents[1] / "helpers"
    monkeypatch.setenv("PYTHONPATH", f"{helpers}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    settings = "start: scratch, unfreeze: all, supervision: everything, optimizer: sgd, schedule: poly, epochs: 2"
    more = (f"finetune={{{settings}, learning_rate: 0.01}}",)
    how = {"verb": "finetune", "program": ("-c", "import everything_stage; everything_stage.main()")}
    start(tmp_path / "whole", *more, **how).finish()
    first = start(tmp_path / "run", *more, **how)
    first.wait_for_step(20)
    os.kill(first.worker(1), signal.SIGKILL)
    first.wait_for_line(r"resuming from step 12")
    first.wait_for_step(40)
    first.kill()
    second = start(tmp_path / "run", *more, **how)
    assert "resuming from step 36" in second.finish()
    states = []
    for folder in ("whole", "run"):
        last = checkpoint.latest(str(tmp_path / folder / "finetune"))
        assert last is not None
        weights = Path(last.location, "model.safetensors").read_bytes()
        states.append((last.document["step"], weights, tensors(last.state)))
    (step, weights, whole), (others_step, others_weights, broken) = states
    assert (step, weights) == (others_step, others_weights)
    assert whole.keys() == broken.keys() >= {"/module/queue", "/module/sums", "/module/followed"}
    assert all(torch.equal(one, broken[name]) for name, one in whole.items())


def test_a_second_command_is_told_and_sigterm_ends_the_first_as_an_interrupt(
    tmp_path: Path, whole: Outcome, start: Callable[..., Driver]
) -> None:
    first = start(tmp_path / "run")
    first.wait_for_step(10)
    said = start(tmp_path / "run").finish(code=2)
    assert re.search(r"process \d+, is writing .*/pretrain at this moment; wait until it is done", said)
    first.wait_for_step(20)
    first.process.terminate()
    lines = first.finish(code=130).splitlines()
    step = re.fullmatch(r"mpc pretrain: interrupted at step (\d+); the same command goes on from here", lines[-1])
    assert step
    assert checkpoint.steps(str(tmp_path / "run" / "pretrain"))[-1] == int(step[1])
    assert not [line for line in lines[:-1] if not line.startswith(("pretrain: ", "ray: the dashboard"))]
    assert statuses(tmp_path / "run") == ["KILLED"]
    start(tmp_path / "run").finish()
    assert outcome(tmp_path / "run") == whole


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, start: Callable[..., Driver]) -> None:
    """The first one asks for a checkpoint; the workers are held, so that none can be written."""
    first = start(tmp_path / "run", "train.checkpoint_every=null", "pretrain.epochs=40")
    first.wait_for_step(10)
    for rank in (0, 1):
        os.kill(first.worker(rank), signal.SIGSTOP)
    first.process.send_signal(signal.SIGINT)
    first.wait_for_line(r"interrupted; writing a checkpoint first \(Ctrl-C again ends at once\)")
    first.process.send_signal(signal.SIGINT)
    assert first.finish(code=130).splitlines()[-1] == "mpc pretrain: interrupted; the same command goes on from here"
    assert statuses(tmp_path / "run") == ["KILLED"]


def test_ctrl_c_while_no_machine_is_there_ends_with_what_is_missing(
    tmp_path: Path, start: Callable[..., Driver]
) -> None:
    """No worker could write a checkpoint, and the controller of Ray Train waits a minute for its machines."""
    first = start(tmp_path / "run", "train.workers=1", "train.label_selector={zone: nowhere}")
    first.wait_for_line(
        r"pretrain: warning: waiting for a worker for 1m\d\ds: it needs 1 CPU with train\.label_selector"
        r" \{zone: nowhere\}; the cluster has"
    )
    first.process.send_signal(signal.SIGINT)
    first.process.wait(timeout=45)
    said = first.finish(code=130)
    assert said.splitlines()[-1] == "mpc pretrain: interrupted; the same command goes on from here"
    assert "writing a checkpoint first" not in said
    assert statuses(tmp_path / "run") == ["KILLED"]


def test_sigterm_to_every_process_at_once_leaves_no_run_running(
    tmp_path: Path, whole: Outcome, start: Callable[..., Driver]
) -> None:
    """As Slurm and systemd do: Ray is ended together with the driver, which then cannot stop its workers in order."""
    first = start(tmp_path / "run")
    first.wait_for_step(20)
    for one in first.family():
        with contextlib.suppress(psutil.NoSuchProcess):
            one.terminate()
    lines = first.finish(code=130).splitlines()
    assert lines[-1] == "mpc pretrain: interrupted; the same command goes on from here"
    deadline = time.monotonic() + PATIENCE
    while first.family():
        assert time.monotonic() < deadline, first.family()
        time.sleep(0.1)
    assert statuses(tmp_path / "run") == ["KILLED"]
    start(tmp_path / "run").finish()
    assert outcome(tmp_path / "run") == whole


def test_a_loss_that_is_not_finite_on_two_workers_ends_the_run_at_once(
    tmp_path: Path, start: Callable[..., Driver], the_recipe: Path
) -> None:
    said = start(tmp_path / "run", "pretrain.learning_rate=1.0e+30").finish(code=1)
    line, *others = [line for line in said.splitlines() if line.startswith("mpc pretrain: ")]
    assert all("what libraries wrote is in" in other for other in others)
    assert re.search(r"the loss is (nan|inf).* at step \d+; batch \[.*look at these samples, or lower", line)
    assert "going back" not in said
    assert said.count("worker 0 of 2 is process") == 1  # no other group trained
    (file,) = (tmp_path / "run" / "pretrain").glob("not-finite-step-*.json")
    step, told = int(file.stem.rsplit("-", 1)[1]), json.loads(file.read_text())["ranks"]
    config = recipe.load(str(the_recipe), [])
    for rank in (0, 1):
        loader = validation.open_split(config, "train", rank=rank, world=2)
        assert told[rank] | {"finite": None} == {"rank": rank, "finite": None, "ids": ids_of(loader, step)}
    assert statuses(tmp_path / "run") == ["FAILED"]


def ids_of(loader: Any, step: int) -> list[str]:
    return next(batch.ids for number, batch in enumerate(loader.epoch(order.Cursor())) if number == step)


# Two hosts.


def test_elastic_training_takes_what_there_is_and_a_standing_cluster_outlives_its_driver(
    tmp_path: Path, hosts: TwoHosts, start: Callable[..., Driver]
) -> None:
    """One host alone, [1, 2] workers. Then one worker, whose driver is killed while Ray goes on, and the same command.

    (Ray holds what an elastic run had reserved for three minutes after its driver was killed: too long for a test.)
    """
    start(tmp_path / "elastic", "train.workers=[1,2]", "pretrain.epochs=1", hosts=hosts).finish()
    more = ("train.workers=1", "pretrain.epochs=1")
    first = start(tmp_path / "run", *more, hosts=hosts)
    first.wait_for_step(20)
    worker = psutil.Process(first.worker(0))
    first.process.kill()
    first.process.wait()
    second = start(tmp_path / "run", *more, hosts=hosts)
    second.wait_for_line("resuming from step")
    assert not environment_of(worker)  # it is gone, and whoever may have its number now is no worker of ours
    second.finish()
    assert outcome(tmp_path / "run") == outcome(tmp_path / "elastic")


def test_a_lost_host_leaves_the_other_with_the_rest_of_the_epoch(
    tmp_path: Path, hosts: TwoHosts, start: Callable[..., Driver], the_recipe: Path
) -> None:
    """Which samples were trained on follows from the cursor of a checkpoint after the loss: it says how many steps were
    taken with two ranks and how many with one, and `order.epoch_batches` which samples those were; the number of steps
    at the end says that the run did what the cursor tells."""
    hosts.join()
    driver = start(tmp_path / "run", "train.workers=[1,2]", hosts=hosts)
    driver.wait_for_step(20)
    hosts.lose()
    driver.wait_for_line(LOST)
    driver.wait_for_line(r"worker 0 of 1 is process")

    def mixed() -> dict[str, Any] | None:
        for file in (tmp_path / "run" / "pretrain" / "checkpoints").glob("*/checkpoint.json"):
            with contextlib.suppress(FileNotFoundError):
                cursor: dict[str, Any] = json.loads(file.read_text())["cursor"]
                if len(cursor["segments"]) == 2:
                    return cursor
        return None

    cursor = order.Cursor.from_json(driver.wait(mixed))
    driver.finish()
    before, after = cursor.segments
    assert (before.world, after.world) == (2, 1)
    assert sorted(drawn(recipe.load(str(the_recipe), []), cursor)) == list(range(64))
    assert outcome(tmp_path / "run").losses[-1][0] == before.steps + (64 - 2 * before.steps) + 64


def drawn(config: Config, cursor: order.Cursor) -> list[int]:
    """Positions of all samples of the cursor's epoch in the order of a run with its segments, the rest on one rank."""
    loader = validation.open_split(config, "train")

    def left(segments: Sequence[order.Segment], world: int) -> list[list[np.ndarray[Any, Any]]]:
        return order.epoch_batches(
            *loader.entries,
            fingerprint=loader._fingerprint,
            seed=config.seed,
            cursor=order.Cursor(cursor.epoch, tuple(segments)),
            world=world,
            batch_size=1,
        )

    found: list[int] = []
    for number, segment in enumerate(cursor.segments):
        lanes = left(cursor.segments[:number], segment.world)
        found += [int(row) for lane in lanes for batch in lane[: segment.steps] for row in batch]
    return found + [int(row) for lane in left(cursor.segments, 1) for batch in lane for row in batch]


def sealed(output: Path) -> list[int]:
    """Steps of the finished checkpoints of a run that goes on meanwhile."""
    return sorted(int(file.parent.name[5:]) for file in output.glob("checkpoints/step-*/checkpoint.json"))


def test_a_preemption_notice_keeps_a_checkpoint_at_once(
    tmp_path: Path, hosts: TwoHosts, start: Callable[..., Driver]
) -> None:
    hosts.join()
    more = ("train.workers=[1,2]", "train.checkpoint_every=null", "train.max_failures=0", "pretrain.epochs=40")
    driver = start(tmp_path / "run", *more, hosts=hosts)
    driver.wait_for_line(r"worker 0 of 2 is process")
    driver.wait_for_step(10)
    hosts.announce(seconds=15)
    goes = time.monotonic() + 15
    driver.wait_for_line("a machine is about to be taken away; keeping a checkpoint now")
    kept = driver.wait(lambda: [s for s in sealed(tmp_path / "run" / "pretrain") if s % 32])
    hosts.lose()  # before it was to go: the other worker sees a lost connection first
    assert time.monotonic() < goes
    driver.wait_for_line("lost its connection to another; waiting until the machine is gone")
    step = int(driver.wait_for_line(r"keeping a checkpoint now[^$]*worker 0 of 1 is [^$]*resuming from step (\d+)")[1])
    assert step >= kept[0]
    assert driver.said.count("going back to the last checkpoint") == 1
    driver.process.terminate()
    driver.finish(code=130)


# Storage that refuses.


def test_a_refused_upload_is_said_and_training_goes_on(
    tmp_path: Path, swift: str, start: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bucket refuses two writes of checkpoints; two workers with synchronised batch norms train on."""
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], share=1, faults=["refused"], methods=["PUT"], limit=2) as proxy:
        proxy.path = "/checkpoints/"
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        more = (f"pretrain.output={swift}/run", "pretrain.epochs=1", "train.sync_batchnorm=true")
        said = start(tmp_path / "run", *more).finish()
        assert proxy.counts["refused"] == 2
        assert checkpoint.steps(f"{swift}/run") == [32]
    for count in (1, 2):
        assert re.search(rf"could not be written: S3 refused .*going on \({count} of 3 before training stops\)", said)
    assert statuses(tmp_path / "run") == ["FINISHED"]


def test_a_bucket_that_refuses_for_good_stops_training_with_a_word(
    tmp_path: Path, swift: str, start: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first checkpoint on nothing can be written or deleted any more, the lease neither."""
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], share=0, faults=["refused"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        more = (f"pretrain.output={swift}/run", "train.checkpoint_every=6")
        driver = start(tmp_path / "run", *more)
        driver.wait(lambda: checkpoint.steps(f"{swift}/run"))
        proxy.methods, proxy.share = ("PUT", "POST", "DELETE"), 1
        said = driver.finish(code=1)
        refused = r"^mpc pretrain: pretrain: the checkpoint of step \d+ could not be written: S3 refused"
        assert re.search(rf"{refused}.* it goes on from the last checkpoint", said, re.MULTILINE)
        assert statuses(tmp_path / "run") == ["FAILED"]
        proxy.share = 0
        driver = start(tmp_path / "run", *more)
        driver.wait_for_line(r"resuming from step \d+")
        driver.finish()
    assert statuses(tmp_path / "run") == ["FINISHED"]


# Validation beside the training.


def validating(driver: Driver) -> list[psutil.Process]:
    """The process that validates a checkpoint at this moment: it has begun, and loaded what decodes images."""
    found = []
    for one in driver.family():
        with contextlib.suppress(psutil.Error):
            if "run_validation_fn" in " ".join(one.cmdline()) and any("cv2" in at.path for at in one.memory_maps()):
                found.append(one)
    return found


def test_validation_beside_the_training_gives_the_same_figures_whatever_is_killed(
    tmp_path: Path, start: Callable[..., Driver]
) -> None:
    """One worker and one validator. All is killed while figures are still to come, then the validator alone."""
    more = ("train.workers=1", "train.batch_size=2", "pretrain.epochs=4")
    start(tmp_path / "whole", *more).finish()
    beside = (*more, "train.async_validation=true")
    first = start(tmp_path / "run", *beside)
    first.wait_for_step(40)  # the figures of the first epoch are due at step 64
    facts = checkpoint.latest(str(tmp_path / "run" / "pretrain"))
    assert facts is not None
    assert facts[0]["assessed"] == 0
    assert len(facts[0]["history"]) == 1
    first.kill()
    second = start(tmp_path / "run", *beside)
    second.wait_for_step(80)
    second.wait(lambda: validating(second))[0].kill()
    said = second.finish()
    assert said.count("asynchronous validation was lost; another process has done it again") == 1
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    kept = checkpoint.steps(str(tmp_path / "run" / "pretrain"))
    record = json.loads((tmp_path / "run" / "pretrain" / "record.json").read_text())
    assert {record["results"]["step"], *record["results"]["best"]} <= set(kept)
