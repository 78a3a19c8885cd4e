"""The modules of the project, what each imports, and the layers that they must keep.

    python docs/layers.py            what breaks the layers, and the longest chain of imports

Imports are read from the source (AST), those inside functions included; only imports at the top of a module count for
the length of a chain, since only they run when the module is imported.
"""

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (
    ("pipelines.demo", "pipelines.bench"),
    ("pipelines.benchmarks",),
    ("pipelines.tune",),
    (
        "pipelines.build",
        "pipelines.inspect",
        "pipelines.pretrain",
        "pipelines.finetune",
        "pipelines.evaluate",
        "pipelines.register",
        "pipelines.promote",
        "pipelines.predict",
        "pipelines.cli",
    ),
    ("pipelines.training", "pipelines.search"),
    ("pipelines.ingest", "pipelines.tracking", "pipelines.inference", "pipelines.model_registry"),
    ("pipelines.config", "pipelines.dataset", "pipelines.artifacts"),
    ("pipelines.runtime",),
    ("mpc_model", "mpc_model.contrast"),
    ("mpc_model.localizer", "mpc_model.evaluation"),
    ("mpc_model.nn", "mpc_model.losses", "mpc_model.imaging", "mpc_model.published"),
    ("mpc_model.registry", "mpc_model.card"),
    ("mpc_model.errors",),
)
"""Rooms from the top layer to the lowest. A module may import its own room and the layers below, nothing else."""
ALLOWED = {
    ("pipelines", "pipelines.runtime"): "the variables of Ray and MLflow are set before anything can import them",
}
"""Arrows that the layers do not allow, each with its reason."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the two packages, by dotted name."""
    found = {}
    for package in ("mpc_model", "pipelines"):
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(names: dict[str, Path]) -> dict[str, dict[str, bool]]:
    """What each module imports of the others: name -> whether at the top of the module."""
    return {name: _imports(file, names) for name, file in names.items()}


def _imports(file: Path, names: dict[str, Path]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    tree = ast.parse(file.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        for target in _targets(node, names):
            at_top = node in tree.body and id(node) not in typing_only
            found[target] = found.get(target, False) or at_top
    return found


def _targets(node: ast.AST, names: dict[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            if inner in names:
                yield inner
            elif node.module in names:
                yield node.module


def room(module: str) -> str:
    """The room of a module: itself or its package, whichever LAYERS names; empty where it names neither."""
    named = {name for layer in LAYERS for name in layer}
    package = module.rpartition(".")[0]
    return module if module in named else package if package in named and package != "mpc_model" else ""


def violations(graph: dict[str, dict[str, bool]]) -> list[str]:
    """Every import that goes upward or sideways, naming both modules."""
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    found = []
    for module, targets in graph.items():
        for target in targets:
            here, there = room(module) or module, room(target) or target
            if here == there or (here, there) in ALLOWED:
                continue
            if here not in level or there not in level:
                found.append(
                    f"{module} imports {target}, and LAYERS names no room for {here if here not in level else there}"
                )
            elif level[there] <= level[here]:
                way = "sideways" if level[there] == level[here] else "upward"
                found.append(f"{module} imports {target}: {way}, from {here} to {there}")
    return found


def longest_chain(graph: dict[str, dict[str, bool]]) -> list[str]:
    """The longest path of imports at the top of modules. ValueError, naming the modules, where they form a circle."""

    @functools.cache
    def below(module: str) -> tuple[str, ...]:
        if module in path:
            raise ValueError(f"a circle of imports: {' -> '.join([*path[path.index(module) :], module])}")
        path.append(module)
        chains = (below(target) for target, at_top in graph[module].items() if at_top)
        longest = max(chains, key=len, default=())
        path.pop()
        return (module, *longest)

    path: list[str] = []
    return list(max((below(module) for module in graph), key=len))


def main() -> int:
    """Print what breaks the layers and the longest chain; the exit code is 1 where something does."""
    graph = imports(modules())
    broken = violations(graph)
    print("\n".join(broken) or "every import keeps the layers")
    chain = longest_chain(graph)
    print(f"the longest chain of imports has {len(chain)} modules: {' -> '.join(chain)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
