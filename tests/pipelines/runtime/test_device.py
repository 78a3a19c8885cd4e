"""GPU or CPU: for this process, for the workers of training, and for a pool of models."""

import subprocess
import sys
from typing import Literal

import cv2
import pytest
import torch

from mpc_model.errors import UserError
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


def test_workers_that_share_a_gpu_need_their_share_of_it() -> None:
    assert device.worker_resources("auto", 1, 2, {"CPU": 8.0, "GPU": 0.5}, 0.25) == {"CPU": 2, "GPU": 0.25}
    assert device.worker_resources("auto", 1, 2, {"CPU": 8.0, "GPU": 0.5}) == {"CPU": 2}


@pytest.mark.parametrize(
    ("machines", "expected"),
    [
        ([GPUS], (4, 1, 2)),
        ([GPUS, CPUS], (4, 1, 2)),
        ([GPUS, {"CPU": 2.0, "GPU": 2.0}], (1, 1, 4)),  # the least share
        ([{"CPU": 64.0, "GPU": 1.0}], (device.POOL_CORES, 1, 1)),
        ([{"GPU": 2.0}], (0, 1, 2)),  # no core is claimed there
        ([CPUS], (2, 0, 4)),
        ([{"CPU": 3.0}, {"CPU": 3.0}], (2, 0, 2)),  # no worker is on two machines
        ([{"CPU": 1.0}], (1, 0, 1)),
        ([{"CPU": 1.0}] * 3, (1, 0, 3)),
        ([{}], (1, 0, 0)),
        ([], (1, 0, 0)),
    ],
)
def test_a_worker_has_a_gpu_with_its_share_of_the_cores_or_two_cores(
    machines: list[dict[str, float]], expected: tuple[int, int, int]
) -> None:
    assert device.worker_shape(machines) == expected
    assert device.worker_shape(machines).cores == max(1, expected[0])


@pytest.mark.parametrize(
    ("machines", "accelerator", "cpus", "expected"),
    [
        ([CPUS], "gpu", "auto", (device.UNKNOWN_CORES, 1, 0)),  # the cluster may grow
        ([CPUS, GPUS], "gpu", "auto", (4, 1, 2)),
        ([CPUS, GPUS], "cpu", "auto", (2, 0, 8)),
        ([CPUS], "auto", 3, (3, 0, 2)),
        ([GPUS], "auto", 6, (6, 1, 1)),  # the cores of the machine are enough for one
        ([GPUS], "auto", 9, (9, 1, 0)),
    ],
)
def test_accelerator_and_cores_are_those_of_the_config(
    machines: list[dict[str, float]],
    accelerator: device.Accelerator,
    cpus: int | Literal["auto"],
    expected: tuple[int, int, int],
) -> None:
    assert device.worker_shape(machines, accelerator, cpus) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_torch_cannot_use_is_no_silent_cpu() -> None:
    assert device.worker_device("auto", "predict") == device.worker_device("cpu", "predict") == torch.device("cpu")
    with pytest.raises(UserError, match=r"predict\.accelerator is gpu, but torch .* sees no GPU"):
        device.worker_device("gpu", "predict")


def test_threads_are_those_of_before_once_the_block_ends() -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    with device.threads(3):
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (3, 1)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


def test_a_worker_uses_the_cores_that_it_has_in_a_process_of_its_own() -> None:
    script = (
        "import cv2, torch; from pipelines.runtime import device;"
        " print(device.use_cores(2), torch.get_num_threads(), cv2.getNumThreads())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "2 2 1\n", done.stderr


def test_sizing_a_cluster_imports_no_torch() -> None:
    script = "import sys; from pipelines.runtime import device; device.worker_shape([]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
