"""What people see of a command as a process: lines of this project alone, whatever libraries write."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.config.recipe import revised
from pipelines.config.root import Config

MPC = Path(sys.executable).with_name("mpc")


@pytest.fixture(scope="module")
def recipe(trained: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The resolved config of a trained pipeline whose evaluation, maps and search are still to be made."""
    folder = tmp_path_factory.mktemp("terminal")
    config = revised(
        trained,
        f"evaluate.output={folder}/evaluate",
        f"predict.input={trained.build.sources[0].location}",
        f"predict.output={folder}/predict",
        f"predict.model={trained.evaluate.model}",
        "tune={space: {pretrain.temperature: [0.1, 0.2]}, trials: 2, stages: pretrain, algorithm: random}",
        f"tune.output={folder}/tune",
    )
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config.dump()))
    return file


def run(verb: str, recipe: Path, tmp_path: Path, *options: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A command with a Ray of its own, whose temporary files are in `tmp_path`."""
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MPC_LOG")}
    environment |= {"TMPDIR": str(tmp_path), "RAY_TMPDIR": "/tmp", **variables}
    return subprocess.run(
        [MPC, verb, "--config", recipe, *options], capture_output=True, text=True, timeout=300, env=environment
    )


@pytest.mark.parametrize("verb", ["evaluate", "predict", "tune"])
def test_every_line_is_one_of_ours_with_the_component_first(recipe: Path, verb: str, tmp_path: Path) -> None:
    done = run(verb, recipe, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines
    assert [line for line in lines if not re.match(rf"({verb}|pretrain|checkpoint|ray): \S", line)] == []
    if verb == "tune":
        assert [line for line in lines if line.startswith("ray: the dashboard is at http://127.0.0.1:")]
    assert done.stdout == ""
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("mpc-")] == []


def test_json_lines_of_workers_come_with_their_rank(recipe: Path, tmp_path: Path) -> None:
    done = run(
        "pretrain", recipe, tmp_path, f"pretrain.output={tmp_path}/p", "train.workers=1", "-v", MPC_LOG_FORMAT="json"
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["rank"] for line in lines} == {None, 0}
    assert {line["level"] for line in lines} >= {"debug", "info"}
    (named,) = [line["message"] for line in lines if "libraries write to" in line["message"]]
    assert Path(named.rpartition(" ")[2]).parent == tmp_path  # kept, since it was asked for


def test_quiet_says_nothing_where_nothing_is_wrong(recipe: Path, tmp_path: Path) -> None:
    done = run("pretrain", recipe, tmp_path, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("options", [[], ["-v"]])
def test_a_mistake_in_the_program_keeps_its_traceback(recipe: Path, options: list[str], tmp_path: Path) -> None:
    code = "import sys\nimport pipelines.pretrain\nfrom pipelines import cli\n"
    code += "def broken(*values):\n    raise RuntimeError('a mistake')\n"
    code += "pipelines.pretrain.pretrain = broken\nsys.exit(cli.main())"
    command = [sys.executable, "-c", code, "pretrain", "--config", str(recipe), "seed=5", *options]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 1
    (file,) = (file for file in tmp_path.iterdir() if file.name.startswith("mpc-pretrain-"))
    assert f"mpc pretrain: RuntimeError: a mistake; details are in {file}\n" in done.stderr
    for text, shown in ((file.read_text(), True), (done.stderr, bool(options))):
        assert ("Traceback (most recent call last):" in text) == shown
        assert text.endswith("RuntimeError: a mistake\n") == shown
