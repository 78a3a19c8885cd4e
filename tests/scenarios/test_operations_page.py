"""docs/operations.md states the environment variables, log levels and timeouts of the code."""

import ast
import re
from pathlib import Path

import pytest

from pipelines.config.training import TrainConfig
from pipelines.runtime import console, environment, s3

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("default", [*environment.LIBRARY_DEFAULTS, *environment.OWN_CLUSTER_DEFAULTS])
def test_every_variable_that_is_set_for_a_library_is_in_the_table(default: environment.Default) -> None:
    (row,) = [row for row in ROWS if row[0] == f"`{default.name}`"]
    assert row[1] == default.value
    assert row[2].removeprefix("Without `RAY_ADDRESS` only. ") == default.reason


def test_every_variable_that_the_code_reads_is_named() -> None:
    sources = "".join(
        file.read_text() for folder in ("pipelines", "mpc_model") for file in (ROOT / folder).rglob("*.py")
    )
    read = set(re.findall(r'"((?:MPC|AWS|RAY|MLFLOW|TUNE)_[A-Za-z0-9_]+)"', sources))
    assert len(read) > 15
    assert sorted(read - set(re.findall(r"`(\w+)`", PAGE))) == []


def test_every_level_and_form_of_a_log_is_named() -> None:
    named = {
        word for line in PAGE.splitlines() for quoted in re.findall(r"`([^`]+)`", line) for word in quoted.split("=")
    }
    assert {*console.LEVELS, *console.FORMATS} <= named


def _constants(file: Path) -> dict[str, float]:
    """Numbers that are assigned to names at the top of a module, as they stand there: tests shorten some of them."""
    found = dict[str, float]()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.Tuple):
            names = re.findall(r"\w+", ast.unparse(node.targets[0]))
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            found |= {
                name: value.value
                for name, value in zip(names, values, strict=False)
                if isinstance(value, ast.Constant) and isinstance(value.value, int | float)
            }
    return found


def test_the_table_of_timeouts_states_the_numbers_of_the_code() -> None:
    stated = 0
    for row in ROWS:
        if place := re.fullmatch(r"`(\w+/\w+\.py)`, `(\w+)`", row[-1]):
            if place[2] == "_BACKOFF":
                continue
            stated += 1
            value = _constants(ROOT / "pipelines" / place[1])[place[2]]
            assert value in [float(number) for number in re.findall(r"\d+", row[1])], row
    assert stated == 23


def test_the_rule_of_s3_and_the_failures_of_workers_are_those_of_the_code() -> None:
    rule = s3._BACKOFF
    assert f"{rule.attempts} attempts, {rule.first:g} to {rule.longest:g} seconds apart" in PAGE
    assert f"`train.max_failures`, {TrainConfig().max_failures};" in PAGE
