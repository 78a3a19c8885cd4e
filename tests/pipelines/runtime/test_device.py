"""GPU or CPU: for this process, for the workers of training, and for a pool of models."""

import subprocess
import sys

import pytest
import torch

from pipelines.runtime import device

CPUS, GPUS = {"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}


def test_this_process_uses_its_gpu_unless_it_is_told_not_to() -> None:
    assert device.is_gpu_here() == torch.cuda.is_available()
    assert device.process_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device.process_device("cpu") == torch.device("cpu")
    assert device.named_device(True) == torch.device("cuda")


def test_only_bf16_training_on_a_gpu_rounds_the_products_that_stay_in_fp32() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.benchmark
    try:
        for where, precision, tf32 in (("cpu", "bf16", False), ("cuda", "bf16", True), ("cuda", "fp32", False)):
            matmul.allow_tf32 = cudnn.benchmark = False
            device.prepare_training(torch.device(where), precision)
            assert (matmul.allow_tf32, cudnn.benchmark) == (tf32, where == "cuda")
    finally:
        matmul.allow_tf32, cudnn.benchmark = before


@pytest.mark.parametrize(
    ("accelerator", "workers", "resources", "gpus"),
    [
        ("auto", 2, GPUS, True),
        ("auto", 3, GPUS, False),  # not enough for all
        ("auto", 1, CPUS, False),
        ("cpu", 1, GPUS, False),
        ("gpu", 4, CPUS, True),  # the cluster may grow
    ],
)
def test_workers_get_a_gpu_each_where_there_are_enough(
    accelerator: device.Accelerator, workers: int, resources: dict[str, float], gpus: bool
) -> None:
    assert device.use_gpus(accelerator, workers, resources) is gpus
    expected = {"CPU": 3, "GPU": 1} if gpus else {"CPU": 3}
    assert device.worker_resources(accelerator, workers, 3, resources) == expected


@pytest.mark.parametrize(
    ("tasks", "machines", "expected"),
    [
        (10, [GPUS], (2, 4, 1)),
        (1, [GPUS], (1, 4, 1)),
        (10, [GPUS, CPUS], (2, 4, 1)),
        (10, [GPUS, {"CPU": 2.0, "GPU": 2.0}], (4, 1, 1)),  # the least share
        (10, [{"CPU": 64.0, "GPU": 1.0}], (1, device.POOL_CORES, 1)),
        (10, [{"GPU": 2.0}], (2, 1, 1)),  # no core is claimed there
        (10, [CPUS], (4, 2, 0)),
        (3, [CPUS], (3, 2, 0)),
        (10, [{"CPU": 3.0}, {"CPU": 3.0}], (2, 2, 0)),  # no worker is on two machines
        (5, [{"CPU": 1.0}], (1, 1, 0)),
        (5, [{"CPU": 1.0}] * 3, (3, 1, 0)),
        (5, [{}], (1, 1, 0)),
        (5, [], (1, 1, 0)),
    ],
)
def test_a_pool_has_a_model_for_each_gpu_or_for_every_two_cores(
    tasks: int, machines: list[dict[str, float]], expected: tuple[int, int, int]
) -> None:
    assert device.pool_size(tasks, machines) == expected


def test_a_worker_uses_the_cores_that_it_has_in_a_process_of_its_own() -> None:
    script = (
        "import cv2, torch; from pipelines.runtime import device;"
        " print(device.use_cores(2), torch.get_num_threads(), cv2.getNumThreads())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "2 2 1\n", done.stderr


def test_sizing_a_cluster_imports_no_torch() -> None:
    script = "import sys; from pipelines.runtime import device; device.pool_size(1, []); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
