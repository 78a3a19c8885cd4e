"""What is around the code: the hooks run what CI runs."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_hooks_run_the_commands_of_make_lint() -> None:
    recipe = re.search(r"^lint: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    lint = [line.strip().replace("$(BIN)/", ".venv/bin/") for line in recipe[1].splitlines()]
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook for repository in repositories for hook in repository["hooks"]]
    assert [repository["repo"] for repository in repositories] == ["local"]
    assert [hook["entry"] for hook in hooks] == lint
    assert all(hook["language"] == "unsupported" and hook["pass_filenames"] is False for hook in hooks)


def test_ci_runs_make_lint() -> None:
    assert "make lint\n" in (ROOT / ".ci" / "run").read_text()
