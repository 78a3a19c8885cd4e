"""The one place that decides between GPU and CPU: for this process, and for the workers of a Ray cluster."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

from mpc_model.errors import UserError

if TYPE_CHECKING:
    import torch

Accelerator = Literal["auto", "cpu", "gpu"]
"""What `train.accelerator`, `evaluate.accelerator` and `predict.accelerator` may be."""
POOL_CORES = 8
"""Cores of a worker that maps on a GPU, at most: they decode and encode."""
UNKNOWN_CORES = 2
"""Cores of such a worker while no machine with a GPU is there to be asked: any machine with a GPU has them."""


def is_gpu_here() -> bool:
    """Whether this process has a GPU that torch can use."""
    import torch  # here, so that processes that only size a cluster do not import it

    return torch.cuda.is_available()


def process_device(accelerator: Accelerator = "auto") -> "torch.device":
    """The device of this process: its first GPU, or the CPU where there is none or `accelerator` is "cpu"."""
    return named_device(accelerator != "cpu" and is_gpu_here())


def worker_device(accelerator: Accelerator, section: str) -> "torch.device":
    """The device of a process that holds a model. UserError where a GPU is asked for that torch cannot use; `section`
    is that of the config."""
    if accelerator == "gpu" and not is_gpu_here():
        import torch

        raise UserError(
            f"{section}.accelerator is gpu, but torch {torch.__version__} sees no GPU in this process; install a build"
            " for CUDA and a driver there, or take auto or cpu"
        )
    return process_device(accelerator)


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


def use_gpus(
    accelerator: Accelerator, workers: int, resources: Mapping[str, float], gpus_per_worker: float = 1
) -> bool:
    """Whether workers of training get a GPU each, or their share of one: where "gpu" asks for it, and with "auto" where
    there are enough.

    `resources` are those of the cluster, as Ray counts them (`CPU`, `GPU`).
    """
    return accelerator == "gpu" or (accelerator == "auto" and resources.get("GPU", 0) >= workers * gpus_per_worker)


def worker_resources(
    accelerator: Accelerator,
    workers: int,
    cpus_per_worker: int,
    resources: Mapping[str, float],
    gpus_per_worker: float = 1,
) -> dict[str, float]:
    """What each of so many workers of training takes of a cluster's resources, by Ray's names."""
    gpu = {"GPU": gpus_per_worker} if use_gpus(accelerator, workers, resources, gpus_per_worker) else {}
    return {"CPU": cpus_per_worker, **gpu}


class WorkerShape(NamedTuple):
    """What each worker of a pool claims of a machine, and how many such workers the machines hold now."""

    cpus: int
    gpus: int
    fitting: int

    @property
    def cores(self) -> int:
        """The threads that it works with: a machine whose cores Ray does not count has one for it."""
        return max(1, self.cpus)


def worker_shape(
    machines: Sequence[Mapping[str, float]], accelerator: Accelerator = "auto", cpus: int | Literal["auto"] = "auto"
) -> WorkerShape:
    """What workers that each hold a model claim: a GPU and its share of the machine's cores, or two cores.

    `machines` are the resources of each, as Ray counts them. With "gpu" workers claim a GPU although no machine has one
    yet. The cores are claimed with the GPU, since the threads that decode and encode use them: unclaimed, they would be
    given to others too. `cpus` sets their number; auto takes at most POOL_CORES beside a GPU.
    """
    gpus = [(int(each["GPU"]), int(each.get("CPU", 0))) for each in machines if each.get("GPU", 0) >= 1]
    if accelerator == "gpu" or (accelerator == "auto" and gpus):
        share = min((cores // count for count, cores in gpus), default=UNKNOWN_CORES)
        claimed = min(share, POOL_CORES) if cpus == "auto" else cpus
        return WorkerShape(claimed, 1, sum(min(count, cores // claimed if claimed else count) for count, cores in gpus))
    cores = [int(each.get("CPU", 0)) for each in machines]
    claimed = (2 if max(cores, default=1) >= 2 else 1) if cpus == "auto" else cpus
    return WorkerShape(claimed, 0, sum(count // claimed for count in cores))


@contextmanager
def threads(cores: int) -> Iterator[None]:
    """While the block runs, torch uses so many cores in this process, and OpenCV one in each thread."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        use_cores(cores)
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def use_cores(cores: int) -> int:
    """Let torch use so many cores in this process, and OpenCV one in each thread. Returns how many."""
    import cv2
    import torch

    torch.set_num_threads(cores)
    cv2.setNumThreads(1)
    return cores
