"""The one place that decides between GPU and CPU: for this process, and for the workers of a Ray cluster."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Accelerator = Literal["auto", "cpu", "gpu"]
"""What `train.accelerator` may be."""
POOL_CORES = 8
"""Cores of a worker that maps on a GPU, at most: they decode and encode."""


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


def pool_size(tasks: int, machines: Sequence[Mapping[str, float]]) -> tuple[int, int, int]:
    """(workers, cores for each, GPUs for each) of a pool in which each worker holds a model, and never more than tasks.

    It is one worker a GPU, with its share of the machine's cores, POOL_CORES at most; where there is no GPU, one for
    every two cores of a machine. `machines` are the resources of each, as Ray counts them.
    """
    gpus = [(int(each["GPU"]), int(each.get("CPU", 0))) for each in machines if each.get("GPU", 0) >= 1]
    if gpus:
        cores = min(cpus // count for count, cpus in gpus)
        return min(tasks, sum(count for count, _ in gpus)), max(1, min(cores, POOL_CORES)), 1
    cpus = [int(each.get("CPU", 0)) for each in machines]
    cores = 2 if max(cpus, default=1) >= 2 else 1
    return max(1, min(tasks, sum(count // cores for count in cpus))), cores, 0


def use_cores(cores: int) -> int:
    """Let torch use so many cores in this process, and OpenCV one in each thread. Returns how many."""
    import cv2
    import torch

    torch.set_num_threads(cores)
    cv2.setNumThreads(1)
    return cores
