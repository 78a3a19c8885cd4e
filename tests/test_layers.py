"""The rooms of the project keep their layers: imports go downward, and few of them lie between a job and the bottom."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def layers() -> ModuleType:
    """docs/layers.py, which also draws the picture."""
    spec = importlib.util.spec_from_file_location("layers", ROOT / "docs" / "layers.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_import_goes_downward(layers: ModuleType) -> None:
    assert layers.violations(layers.imports(layers.modules())) == []


def test_every_module_has_a_room(layers: ModuleType) -> None:
    assert [name for name in layers.modules() if name != "pipelines" and not layers.room(name)] == []


def test_an_arrow_upward_or_sideways_is_named_with_both_modules(layers: ModuleType, tmp_path: Path) -> None:
    sources = {
        "pipelines/dataset/reader.py": "from pipelines.training import loop\n",
        "pipelines/training/loop.py": "def late():\n    from pipelines.search.space import draw\n",
        "pipelines/search/space.py": "import pipelines.dataset.reader\n",
        "mpc_model/errors.py": "from pipelines.runtime import console\n",
        "pipelines/runtime/console.py": "",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = layers.violations(layers.imports(layers.modules(tmp_path)))
    assert [line.partition(":")[0] for line in found] == [
        "mpc_model.errors imports pipelines.runtime.console",
        "pipelines.dataset.reader imports pipelines.training.loop",
        "pipelines.training.loop imports pipelines.search.space",
    ]


def test_the_longest_chain_of_imports_is_short(layers: ModuleType) -> None:
    chain = layers.longest_chain(layers.imports(layers.modules()))
    assert len(chain) <= 15, " -> ".join(chain)


def test_a_circle_of_imports_is_an_error(layers: ModuleType) -> None:
    graph = {"a": {"b": True}, "b": {"c": True}, "c": {"a": True}}
    with pytest.raises(ValueError, match="a -> b -> c -> a"):
        layers.longest_chain(graph)


def test_training_loads_no_module_of_the_build_and_nothing_of_s3() -> None:
    script = """
import sys
import pipelines.training.ray_backend, pipelines.pretrain, pipelines.finetune, pipelines.inference.mapper
print([name for name in sys.modules if name.startswith("pipelines.ingest") or name in ("s3fs", "aiobotocore")])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_packages_are_empty_but_for_their_modules() -> None:
    files = [*(ROOT / "pipelines").glob("*/__init__.py"), *(ROOT / "mpc_model").glob("*/__init__.py")]
    assert len(files) == 17
    assert [str(file) for file in files if file.read_text()] == []


def test_no_module_is_long_and_none_is_called_utils() -> None:
    files = [*(ROOT / "pipelines").rglob("*.py"), *(ROOT / "mpc_model").rglob("*.py")]
    assert [str(file) for file in files if len(file.read_text().splitlines()) > 400] == []
    assert [str(file) for file in files if "util" in file.stem] == []
