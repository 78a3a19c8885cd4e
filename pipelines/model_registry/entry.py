"""What an entry of the registry says to its consumers: packages to install, and no path of the machine that made it."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from pipelines.runtime import uris

MLMODEL = "MLmodel"
WORKSPACE = "$WORKSPACE"
"""What stands for a local workspace in files of an entry."""
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
_PACKAGES = ("mlflow", "numpy", "opencv-python-headless", "pillow", "safetensors", "torch")
_STORES = {"s3": "boto3", "gs": "google-cloud-storage", "wasbs": "azure-storage-blob", "abfss": "azure-storage-blob"}
"""What MLflow reads artifacts with, by the scheme of their location. A server that hands them out needs nothing."""


def requirements(artifacts: str) -> list[str]:
    """Lines of a requirements.txt for whoever loads an entry from a store of artifacts.

    torch comes from the index of its CPU builds where a consumer has none of that version: PyPI's builds for Linux
    bring gigabytes of CUDA. One that is there already, for a GPU, fulfils the line.
    """
    store = _STORES.get(urlsplit(artifacts).scheme)
    lines = [f"--extra-index-url {TORCH_INDEX}", *map(_pinned, _PACKAGES)]
    return [*lines, _pinned(store)] if store else lines


def _pinned(package: str) -> str:
    """`package==version`, without the part of a build (`+cpu`); any version where this machine has none."""
    try:
        return f"{package}=={version(package).partition('+')[0]}"
    except PackageNotFoundError:
        return package


def portable(text: str, workspace: str) -> str:
    """The text with $WORKSPACE for a local workspace and ~ for the home folder of whoever made it."""
    folders = [(str(Path.home()), "~")] if str(Path.home()) != "/" else []
    if not uris.is_remote(workspace):
        folders.insert(0, (uris.absolute(workspace), WORKSPACE))
    for folder, name in folders:
        text = re.sub(rf"{re.escape(folder)}(?![^/\s\"',;:)\]}}])", name, text)
    return text


def portable_mlmodel(document: str) -> str:
    """MLflow's description of an entry, with paths in the entry where MLflow wrote those of this machine.

    It loads all by the paths in the entry; the others only say where things were.
    """
    described = yaml.safe_load(document)
    flavor = described["flavors"]["python_function"]
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    if not urlsplit(described["artifact_path"]).scheme:
        described["artifact_path"] = f"models:/{described['model_id']}"
    return yaml.safe_dump(described)
