"""The modules of the project, what each imports, and the layers that they must keep.

    python docs/layers.py            what breaks the layers, and the longest chain of imports
    python docs/layers.py --draw     the same, and docs/layers.svg, which docs/architecture.md shows

Imports are read from the source (AST), those inside functions included; only imports at the top of a module count for
the length of a chain, since only they run when the module is imported.
"""

import ast
import functools
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (
    ("pipelines.demo", "pipelines.bench"),
    ("pipelines.benchmarks",),
    ("pipelines.tune", "pipelines.evaluate"),
    ("pipelines.evaluate_sets",),
    (
        "pipelines.build",
        "pipelines.inspect",
        "pipelines.view",
        "pipelines.pretrain",
        "pipelines.finetune",
        "pipelines.adapt",
        "pipelines.compare",
        "pipelines.register",
        "pipelines.promote",
        "pipelines.models",
        "pipelines.predict",
        "pipelines.cli",
        "pipelines.init",
        "pipelines.reference",
        "pipelines.completion",
    ),
    ("pipelines.training", "pipelines.search"),
    ("pipelines.reuse",),
    (
        *(
            "pipelines.ingest",
            "pipelines.tracking",
            "pipelines.inference",
            "pipelines.model_registry",
            "pipelines.pages",
        ),
        "pipelines.read",
    ),
    ("pipelines.config", "pipelines.dataset", "pipelines.artifacts", "pipelines.commands"),
    ("pipelines.runtime",),
    ("mpc_model", "mpc_model.contrast"),
    ("mpc_model.localizer", "mpc_model.evaluation"),
    ("mpc_model.nn", "mpc_model.losses", "mpc_model.imaging", "mpc_model.published", "mpc_model.model_files"),
    ("mpc_model.registry", "mpc_model.card", "mpc_model.classes", "mpc_model.formats"),
    ("mpc_model.errors", "mpc_model.moved"),
)
"""Rooms from the top layer to the lowest. A module may import its own room and the layers below, nothing else."""
ALLOWED = {
    ("pipelines", "pipelines.runtime"): "the variables of Ray and MLflow are set before anything can import them",
}
"""Arrows that the layers do not allow, each with its reason."""
PICTURE = ROOT / "docs" / "layers.svg"
WIDTH, MARGIN, GAP, SPACE, LINE = 1180, 20, 18, 40, 15
"""Pixels of the picture: its width, its border, the gap between two boxes of a layer, the space between two
layers, the height of a line of text."""
CHARACTER = 6.7
"""Pixels of a character of the modules' names, at most."""
STYLE = """
  .page { fill: #ffffff } .pipelines { fill: #f3f6fa; stroke: #5b6b7f } .mpc_model { fill: #f2f8f0; stroke: #5d7a52 }
  text { fill: #16202c; font: 11px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace }
  .half { font: bold 16px system-ui, 'DejaVu Sans', Arial, sans-serif }
  .name { font: bold 13px system-ui, 'DejaVu Sans', Arial, sans-serif }
  .arrow { fill: none; stroke: #7d8ea3; stroke-width: 1.3 } .tip { fill: #7d8ea3 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .pipelines { fill: #1b2430; stroke: #8094ab } .mpc_model { fill: #1b2a1c; stroke: #86a97a }
    text { fill: #e6edf3 } .arrow { stroke: #6f8299 } .tip { fill: #6f8299 }
  }
"""


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


class Box(NamedTuple):
    """A room in the picture: its corner and size in pixels, and the lines of its modules' names."""

    x: float
    y: float
    width: float
    height: float
    lines: list[str]


def arrows(graph: dict[str, dict[str, bool]]) -> list[tuple[str, str]]:
    """Which room imports which, without the arrows that longer ways through other rooms imply already."""
    direct: dict[str, set[str]] = {name: set() for layer in LAYERS for name in layer}
    for module, targets in graph.items():
        for target in targets:
            ends = room(module), room(target)
            if all(ends) and ends[0] != ends[1] and ends not in ALLOWED:
                direct[ends[0]].add(ends[1])

    @functools.cache
    def reachable(name: str) -> frozenset[str]:
        return frozenset(direct[name].union(*map(reachable, direct[name])))

    return [
        (name, target)
        for name, targets in direct.items()
        for target in sorted(targets)
        if not any(target in reachable(other) for other in targets)
    ]


def drawing(graph: dict[str, dict[str, bool]]) -> str:
    """The layers as an SVG: a box for each room with its modules, an arrow for each import that no other way implies.

    Arrows from `pipelines` to `mpc_model` are left out: every layer of the jobs may import the model.
    """
    boxes, y = dict[str, Box](), float(MARGIN)
    for layer in LAYERS:
        row = _row(layer, graph, y)
        boxes |= row
        y += max(box.height for box in row.values()) + SPACE
    height = y - SPACE + MARGIN
    pairs = [(source, target) for source, target in arrows(graph) if _package(source) == _package(target)]
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img">',
        "<title>The layers of the project: a box imports only boxes below it</title>",
        f"<style>{STYLE}</style>",
        f'<defs>{tip}<path class="tip" d="M0 0 L8 4 L0 8 z"/></marker></defs>',
        f'<rect class="page" width="{WIDTH}" height="{height:g}"/>',
        *_paths(boxes, pairs),
        *(line for name, box in boxes.items() for line in _box(name, box)),
        *(
            f'<text class="half" x="{MARGIN}" y="{boxes[first].y + 22:g}">{_package(first)}/</text>'
            for first in (LAYERS[0][0], "mpc_model")
        ),
        f'<text x="{MARGIN}" y="{boxes["mpc_model"].y + 40:g}">every layer above may import it</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _package(name: str) -> str:
    return name.partition(".")[0]


def _row(layer: tuple[str, ...], graph: dict[str, dict[str, bool]], y: float) -> dict[str, Box]:
    """The boxes of one layer, side by side in the middle of the picture, wider where they hold more modules."""
    members = {
        name: sorted(module.rpartition(".")[2] for module in graph if room(module) == name and module != name)
        for name in layer
    }
    longest = {name: max(map(len, members[name]), default=0) for name in layer}
    wanted = {
        name: max(18 + 9.0 * len(_label(name)), 18 + CHARACTER * longest[name], min(560, 32 * len(members[name])))
        for name in layer
    }
    scale = min(1.0, (WIDTH - 2 * MARGIN - GAP * (len(layer) - 1)) / sum(wanted.values()))
    x = (WIDTH - sum(wanted.values()) * scale - GAP * (len(layer) - 1)) / 2
    row = {}
    for name in layer:
        width = wanted[name] * scale
        lines = textwrap.wrap(" ".join(members[name]), int((width - 16) / CHARACTER), break_long_words=False)
        row[name] = Box(round(x, 1), y, round(width, 1), 26 + LINE * len(lines) + (4 if lines else 0), lines)
        x += width + GAP
    return row


def _label(name: str) -> str:
    last = name.rpartition(".")[2]
    return f"{last}/" if (ROOT / name.replace(".", "/")).is_dir() and "." in name else last


def _box(name: str, box: Box) -> Iterator[str]:
    size = f'x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}"'
    yield f'<rect class="{_package(name)}" {size} rx="5"/>'
    yield f'<text class="name" x="{box.x + 8:g}" y="{box.y + 17:g}">{_label(name)}</text>'
    for number, line in enumerate(box.lines):
        yield f'<text x="{box.x + 8:g}" y="{box.y + 34 + number * LINE:g}">{line}</text>'


def _paths(boxes: dict[str, Box], pairs: list[tuple[str, str]]) -> Iterator[str]:
    """The arrows as curves; those that leave, or reach, one box are spread over its lower, or upper, edge."""

    def middle(name: str) -> float:
        return boxes[name].x + boxes[name].width / 2

    def place(name: str, others: list[str], other: str) -> float:
        share = (sorted(others, key=middle).index(other) + 1) / (len(others) + 1)
        return boxes[name].x + boxes[name].width * share

    for source, target in pairs:
        start = place(source, [end for begin, end in pairs if begin == source], target)
        end = place(target, [begin for begin, end in pairs if end == target], source)
        top, bottom = boxes[source].y + boxes[source].height, boxes[target].y - 1
        bend = min(60.0, (bottom - top) / 2)
        curve = f"M{start:.1f} {top:g} C{start:.1f} {top + bend:g} {end:.1f} {bottom - bend:g} {end:.1f} {bottom:g}"
        yield f'<path class="arrow" marker-end="url(#tip)" d="{curve}"/>'


def main(draw: bool = False) -> int:
    """Print what breaks the layers and the longest chain; the exit code is 1 where something does."""
    graph = imports(modules())
    if draw:
        PICTURE.write_text(drawing(graph))
    broken = violations(graph)
    print("\n".join(broken) or "every import keeps the layers")
    chain = longest_chain(graph)
    print(f"the longest chain of imports has {len(chain)} modules: {' -> '.join(chain)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(draw="--draw" in sys.argv[1:]))
