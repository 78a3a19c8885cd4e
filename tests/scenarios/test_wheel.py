"""The wheel that the repository builds holds every module, and what is installed from it runs `mpc demo`."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("mpc_model", "pipelines")
SHORT = (
    "build.sources.0.samples_per_photo=8",
    "build.sources.0.crop=64",
    "model.input_size=64",
    "train.validation_images=8",
    "pretrain.epochs=1",
    "finetune.epochs=1",
)


def run(*command: str | Path, folder: Path, seconds: float = 300) -> str:
    """What a command prints; PYTHONPATH would let Python find the checkout, so it is not passed on."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=seconds, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network from a copy of the sources, since setuptools writes into the folder it builds from."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder]
    run(*build, source, folder=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    expected = {str(path.relative_to(ROOT)) for path in files if path.parent.name != "__pycache__"}
    assert {"mpc_model/py.typed", "pipelines/py.typed", "pipelines/recipes/demo.yaml"} <= expected
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.split("/")[0] in PACKAGES} == expected


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """The interpreter of a new environment: the wheel, and by a path file the packages of this environment.

    A folder that is named in a path file has its own path files ignored: this environment's editable install of the
    checkout is not seen.
    """
    environment = wheel.parent / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, folder=wheel.parent)
    python = environment / "bin" / "python"
    # The wheel first: with the other packages in sight, pip would take the checkout for an installed version.
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    run(*pip, wheel, folder=wheel.parent)
    site = sysconfig.get_path("purelib", vars={"base": str(environment)})
    Path(site, "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.slow
def test_the_installed_wheel_runs_the_demo(python: Path, tmp_path: Path) -> None:
    script = "import mpc_model, pipelines; print(mpc_model.__file__, pipelines.__file__)"
    for file in run(python, "-c", script, folder=tmp_path).split():
        assert Path(file).is_relative_to(python.parents[1])
    table = run(python.with_name("mpc"), "demo", *SHORT, folder=tmp_path, seconds=500)
    assert "champion is version 1" in table
    assert (tmp_path / "runs" / "demo" / "finetune" / "model" / "model.json").is_file()
