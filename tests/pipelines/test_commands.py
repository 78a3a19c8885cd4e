"""The table of commands: every entry can be called, reads sections that exist, and records what its result holds."""

import ast
import importlib.util
import inspect
from pathlib import Path

import pytest

from pipelines.commands import COMMANDS, Command
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest, PixelCounts, SplitCounts

EACH = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)


@EACH
def test_the_function_is_there_and_takes_the_arguments(command: Command) -> None:
    spec = importlib.util.find_spec(command.module)
    assert spec
    assert spec.origin
    (function,) = (
        node
        for node in ast.parse(Path(spec.origin).read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == command.function
    )
    taken = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    assert {argument.keyword for argument in command.arguments} <= taken


@EACH
def test_its_sections_are_sections_of_the_config(command: Command) -> None:
    names = {field.alias or name for name, field in Config.model_fields.items()}
    assert set(command.sections) <= names
    assert (command.config == "none") == (not command.sections)
    if command.metrics:
        section, _, key = command.dataset.partition(".")
        assert key in type(getattr(Config(), section)).model_fields


def test_the_table_imports_none_of_what_does_the_work() -> None:
    tree = ast.parse(inspect.getsource(inspect.getmodule(Command)))  # type: ignore[arg-type]
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"importlib", "collections.abc", "dataclasses", "types", "typing"}


def test_metrics_are_counts_of_a_build_and_summaries_of_an_evaluation() -> None:
    build, evaluate = COMMANDS["build"].metrics, COMMANDS["evaluate"].metrics
    assert build
    assert evaluate
    splits = {"train": SplitCounts(samples=3, forged=2, pixels=PixelCounts(authentic=5, forged=2))}
    assert build(Manifest.model_construct(splits=splits)) == {"train_samples": 3, "train_forged": 2}
    assert evaluate({"model": {"f1": 0.5, "false_alarm_rate": None}}) == {"f1": 0.5}
