"""Bench group `train`: the contrast, the backbone, a stage-2 step, the loop on Ray Train, and the wait for data.

Every ratio comes from one run on one machine, both sides doing the same work; GPU metrics are measured where there
is one and otherwise say "not measured".
"""

import functools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpc_model.localizer import Localizer, ModelSpec
from pipelines.benchmarks import contrast, hrformer, timing
from pipelines.build import build
from pipelines.config import recipe
from pipelines.config.recipe import revised
from pipelines.config.root import Config
from pipelines.dataset.batch import DeviceBatch
from pipelines.dataset.order import Cursor
from pipelines.finetune import Finetuning
from pipelines.ingest import example_photos
from pipelines.pretrain import Pretraining, pretrain
from pipelines.runtime.device import process_device
from pipelines.tracking import client, runs
from pipelines.training import loop, validation
from pipelines.training.stage import Steps
from pipelines.training.worker_context import WorkerContext


def measure_train(quick: bool) -> dict[str, Any]:
    """All metrics of the group, by part, each part with its target."""
    with tempfile.TemporaryDirectory() as folder:
        config = dataset(Path(folder), quick)
        return {
            "contrast": contrast.measure_contrast(quick),
            "hrformer": hrformer.measure_hrformer(quick),
            "stage_2": measure_stage_2(config, Path(folder), quick),
            "ray": measure_ray(config, Path(folder), quick),
            "data": measure_data(config, Path(folder), quick),
        }


def dataset(folder: Path, quick: bool) -> Config:
    """A dataset of crops of the photographs that installed packages ship, and a config to train on it."""
    source = {
        "name": "photos",
        "layout": "photos",
        "location": example_photos.photographs(),
        "crop": 128,
        "samples_per_photo": 4 if quick else 36,
    }
    config = recipe.load(
        None,
        [
            f"workspace={folder / 'mpc'}",
            f"build.sources={[source]}",
            "build.split={train: 0.8, validation: 0.2, test: 0.0}",
            "build.views={policy: light, count: 1}",
            "build.max_reject_fraction=0.2",
            "model={backbone: hrformer_tiny, input_size: 64}" if quick else "model.backbone=hrformer_base",
            "train={workers: 0, validation_images: 16, pictures_every: null}",
        ],
    )
    build(config)
    return config


def measure_stage_2(config: Config, folder: Path, quick: bool) -> dict[str, Any]:
    """Seconds of a stage-2 step with its optimizer: all parameters trained, the backbone frozen, and the backbone's
    features in the batch, as the loader's threads read them from the cache."""
    side, batch, rounds = (64, 2, 1) if quick else (256, 2, 3)
    config = revised(config, f"model.input_size={side}")
    torch.manual_seed(0)
    encoder = str(folder / "encoder")
    Localizer(ModelSpec(config.model.backbone, None, side)).save(encoder)
    device = process_device()
    variants = {
        "unfrozen": ["finetune.unfreeze=all"],
        "frozen": [],
        "cached": [f"finetune.cache={folder / 'cache'}"],
    }
    configs = {name: revised(config, f"finetune.encoder={encoder}", *more) for name, more in variants.items()}
    batched = revised(config, f"train.batch_size={batch}")
    inputs = next(validation.open_split(batched, "train", symmetries=False).epoch(Cursor())).to(device)
    _step(configs["cached"], inputs, device)()  # fills the cache
    cache = Finetuning(configs["cached"]).feature_cache
    stored = next(validation.open_split(batched, "train", symmetries=False, features=cache).epoch(Cursor())).to(device)
    assert len(stored.cached) == batch
    steps = {
        name: _step(of_variant, stored if name == "cached" else inputs, device) for name, of_variant in configs.items()
    }
    for step in steps.values():
        step()
    seconds = timing.alternating(rounds, {name: functools.partial(_timed, step) for name, step in steps.items()})
    return {
        "device": _device_name(device),
        "input_size": side,
        "batch": batch,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "frozen_ratio": seconds["unfrozen"] / seconds["frozen"],
        "frozen_target": ">= 3",
        "cached_ratio": seconds["unfrozen"] / seconds["cached"],
        "cached_target": ">= 15",
    }


def _step(config: Config, inputs: DeviceBatch, device: torch.device) -> Callable[[], object]:
    """One step of stage 2 on the same batch each time."""
    stage = Finetuning(config)
    module = stage.module.to(device).train()
    optimizer = torch.optim.AdamW([parameter for parameter in module.parameters() if parameter.requires_grad], lr=1e-6)
    seed, steps = torch.zeros((), dtype=torch.int64, device=device), Steps.at(0, 1, device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        module(inputs, seed, steps)["total"].backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def _timed(step: Callable[[], object], round_index: int) -> float:
    return timing.seconds(step)


def measure_ray(config: Config, folder: Path, quick: bool) -> dict[str, Any]:
    """Seconds of an epoch of stage 1 on Ray Train with one worker, and of the same loop without Ray, same threads.

    An epoch includes its validation and checkpoint. Its seconds are half of what three epochs take more than one, so
    that the start of the workers does not count; the start is reported on its own.
    """
    cores, rounds = len(os.sched_getaffinity(0)), 1 if quick else 3
    tiny = revised(
        config,
        "model={backbone: hrformer_tiny, input_size: 64}",
        f"train={{workers: 0, batch_size: 8, validation_images: 16, pictures_every: null, cpus_per_worker: {cores}}}",
    )
    torch.set_num_threads(cores)

    def epoch(workers: int, round_index: int) -> float:
        one_epoch, three_epochs = (
            timing.seconds(
                functools.partial(_pretrain, tiny, folder / f"ray-{workers}-{round_index}-{epochs}", workers, epochs)
            )
            for epochs in (1, 3)
        )
        starts[workers].append(one_epoch - (three_epochs - one_epoch) / 2)
        return (three_epochs - one_epoch) / 2

    starts: dict[int, list[float]] = {0: [], 1: []}
    _pretrain(tiny, folder / "warm", 1, 1)  # Ray starts
    seconds = timing.alternating(rounds, {"ray": functools.partial(epoch, 1), "bare": functools.partial(epoch, 0)})
    return {
        "epoch_seconds": seconds["bare"],
        "epoch_seconds_on_ray": seconds["ray"],
        "ratio": seconds["bare"] / seconds["ray"],
        "target": ">= 0.95",
        "start_seconds_on_ray": float(np.median(starts[1])),
        "start_seconds": float(np.median(starts[0])),
    }


def _pretrain(config: Config, output: Path, workers: int, epochs: int) -> None:
    pretrain(revised(config, f"pretrain.output={output}", f"train.workers={workers}", f"pretrain.epochs={epochs}"))


def measure_data(config: Config, folder: Path, quick: bool) -> dict[str, Any]:
    """Share of a stage-1 step that is spent waiting for data: HRFormer-base at 512 pixels, as the loop reports it."""
    side, steps = 64 if quick else 512, loop.LOG_EVERY
    config = revised(config, f"model.input_size={side}", "train.batch_size=1", f"pretrain.output={folder / 'data'}")
    run_id = runs.start_run(config, "pretrain")
    device = process_device()
    started = time.monotonic()
    loop.run(config, Pretraining, run_id, WorkerContext(device=device), stop_after=steps + 1)
    (wait,) = (point.value for point in client.client(config).get_metric_history(run_id, "train/data_wait"))
    return {
        "device": _device_name(device),
        "data_wait": wait,
        "step_seconds": (time.monotonic() - started) / steps,
        "target": "< 0.05 on a GPU",
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu (on a GPU: not measured)"
