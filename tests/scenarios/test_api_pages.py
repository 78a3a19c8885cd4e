"""`make docs` builds the pages and the API without a warning."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.dataset.reader import ShardReader

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\ndocs: install\n\t")[2].splitlines()[0]
    command = recipe.replace("build/docs", f"-d {tmp_path}/doctrees {tmp_path}/html").split()
    assert command[:3] == ["$(BIN)/sphinx-build", "--quiet", "--fail-on-warning"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert (built.returncode, built.stderr) == (0, "")
    reader = (tmp_path / "html" / "_generated" / "pipelines.dataset.html").read_text()
    assert "ShardReader" in reader
    assert str(ShardReader.__doc__).partition("\n")[0] in reader
    assert "multi_view_contrast" in (tmp_path / "html" / "_generated" / "mpc_model.losses.html").read_text()
    assert "layers.svg" in (tmp_path / "html" / "architecture.html").read_text()
