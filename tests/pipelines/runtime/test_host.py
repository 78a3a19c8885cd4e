"""Facts about this machine and this code."""

import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from pipelines.runtime import host


def test_software_names_python_the_packages_and_the_commit_of_a_checkout() -> None:
    tags = host.software()
    python, *packages = tags["mpc.versions"].split(", ")
    assert python == f"python {platform.python_version()}"
    assert {"torch", "ray", "mlflow"} <= {package.partition(" ")[0] for package in packages}


def test_the_commit_is_that_of_the_folder_and_not_of_one_above(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    top = Path(os.path.realpath(tmp_path))
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert host._git(top) == {"mlflow.source.git.commit": commit, "mpc.git_dirty": "false"}
    (tmp_path / "file").write_text("2")
    assert host._git(top)["mpc.git_dirty"] == "true"
    (tmp_path / "below").mkdir()
    assert host._git(top / "below") == {}


def test_hardware_and_load_are_those_of_this_machine() -> None:
    name, cpus, memory, *_ = host.hardware()["mpc.machine"].split(", ")
    assert name == os.uname().nodename
    assert cpus.startswith(f"{len(os.sched_getaffinity(0))} cpus")
    load = host.load()
    assert load["machine_load"] >= 0
    assert 0 < load["machine_memory_gib"] < float(memory.removesuffix(" GiB"))


def test_a_machine_is_told_with_the_versions_and_the_time() -> None:
    facts = host.machine()
    assert facts["cpu"]
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert {"ray", "torch", "numpy", "memory_gib", "python"} <= facts.keys()
    assert str(facts["date"]).endswith("+00:00")


def test_resident_memory_grows_with_what_is_held() -> None:
    before = host.resident_bytes()
    held = bytearray(os.urandom(64 << 20))
    assert host.resident_bytes() - before > 32 << 20
    assert len(held) == 64 << 20


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(host.getpass, "getuser", nameless)
    assert host.user() == f"uid {os.getuid()}"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """What torch says of a GPU, on machines without one. Its utilisation is asked for as torch does it."""
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 << 30)
    host._say_unmeasured.cache_clear()
    return torch.device("cuda", 0)


MEMORY = {"device_memory_gib": 3.0, "device_memory_now_gib": 1.0}


def test_a_cpu_has_no_load_of_its_own() -> None:
    assert host.device_load(torch.device("cpu")) == {}


def test_the_load_of_a_gpu_is_a_share_and_gibibytes(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 87)
    assert host.device_load(gpu) == {**MEMORY, "device_utilization": 0.87}


def test_without_its_package_the_utilisation_is_left_out_and_said_once(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "_HAS_PYNVML", False)
    assert [host.device_load(gpu), host.device_load(gpu)] == [MEMORY, MEMORY]
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("the package nvidia-ml-py is not installed; pip install nvidia-ml-py")


def test_without_a_driver_the_utilisation_is_left_out_and_said_once(
    gpu: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real package, on a machine that has no driver."""
    pytest.importorskip("pynvml")
    if torch.cuda.is_available():
        pytest.skip("this machine has a driver")
    assert [host.device_load(gpu), host.device_load(gpu)] == [MEMORY, MEMORY]
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("gpu: its utilisation is not in the metrics: NVMLError")
