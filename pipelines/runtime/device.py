"""The one place that decides between GPU and CPU: for this process, and for the workers of a Ray cluster."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Accelerator = Literal["auto", "cpu", "gpu"]
"""What `train.accelerator` may be."""


def is_gpu_here() -> bool:
    """Whether this process has a GPU that torch can use."""
    import torch  # here, so that processes that only size a cluster do not import it

    return torch.cuda.is_available()


def process_device(accelerator: Accelerator = "auto") -> "torch.device":
    """The device of this process: its first GPU, or the CPU where there is none or `accelerator` is "cpu"."""
    return named_device(accelerator != "cpu" and is_gpu_here())


def named_device(gpu: bool) -> "torch.device":
    """The device of a process that was or was not given a GPU, which this process need not have."""
    import torch

    return torch.device("cuda" if gpu else "cpu")


def prepare_training(device: "torch.device", precision: str) -> None:
    """Set what torch leaves to the process for training on this device; nothing on a CPU.

    On a GPU, convolutions try which kernel is the fastest, which pays where shapes stay the same. With `precision`
    "bf16" the products that stay in float32, those of the contrast above all, round their inputs to TF32, 10 bits of
    mantissa (bfloat16 has 7), and add in float32; with "fp32" they are torch's.
    """
    if device.type != "cuda":
        return
    import torch

    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = precision == "bf16"


def use_gpus(accelerator: Accelerator, workers: int, resources: Mapping[str, float]) -> bool:
    """Whether workers of training get a GPU each: where "gpu" asks for it, and with "auto" where there are enough.

    `resources` are those of the cluster, as Ray counts them (`CPU`, `GPU`).
    """
    return accelerator == "gpu" or (accelerator == "auto" and resources.get("GPU", 0) >= workers)


def worker_resources(
    accelerator: Accelerator, workers: int, cpus_per_worker: int, resources: Mapping[str, float]
) -> dict[str, int]:
    """What each of so many workers of training takes of a cluster's resources, by Ray's names."""
    gpu = {"GPU": 1} if use_gpus(accelerator, workers, resources) else {}
    return {"CPU": cpus_per_worker, **gpu}


def pool_size(tasks: int, resources: Mapping[str, float]) -> tuple[int, int]:
    """(workers, GPUs for each) of a pool in which each worker holds a model: one worker a GPU, or one for every two
    cores where there is no GPU, and never more than tasks."""
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    return min(tasks, gpus or max(1, cpus // 2)), 1 if gpus else 0
