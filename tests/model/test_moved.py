"""Modules can be imported by the names they had before they moved."""

import importlib
import subprocess
import sys

import pytest

from mpc_model.moved import MOVED


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_gives_the_module_that_moved(old: str, new: str) -> None:
    moved = importlib.import_module(new)
    assert importlib.import_module(old) is moved
    assert moved.__name__ == new
    assert moved.__spec__
    assert moved.__spec__.name == new


def test_every_way_to_import_an_old_name_works_in_a_fresh_process() -> None:
    script = """
from mpc_model import images, tiling
from mpc_model.images import Image
from mpc_model.metrics import image_score
import mpc_model.views
from mpc_model.evaluation import metrics
from mpc_model.imaging import codecs, views
from mpc_model.nn import tiling as moved
assert images is codecs and tiling is moved and image_score is metrics.image_score and Image is codecs.Image
assert mpc_model.views is views
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'mpc_model\.pictures'"):
        importlib.import_module("mpc_model.pictures")


def test_the_package_alone_imports_no_moved_module() -> None:
    script = "import sys, mpc_model; print(sorted(name for name in sys.modules if name.startswith('mpc_model')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "['mpc_model', 'mpc_model.moved']\n", done.stdout + done.stderr
