"""docs/architecture.md is current, and what the pages name and link is there."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def layers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("layers", DOCS / "layers.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_the_layers_is_current(layers: ModuleType) -> None:
    drawn = layers.drawing(layers.imports(layers.modules()))
    assert (DOCS / "layers.svg").read_text() == drawn, "run python docs/layers.py --draw"


def test_the_picture_shows_every_room_and_module_inside_its_borders(layers: ModuleType) -> None:
    graph = layers.imports(layers.modules())
    picture = ElementTree.fromstring(layers.drawing(graph))
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    space = "{http://www.w3.org/2000/svg}"
    words = {word.rstrip("/") for text in picture.iter(f"{space}text") for word in (text.text or "").split()}
    assert {name.rpartition(".")[2] for name in graph} <= words
    for box in picture.iter(f"{space}rect"):
        x, y, w, h = (float(box.attrib.get(key, 0)) for key in ("x", "y", "width", "height"))
        assert x >= 0
        assert x + w <= width
        assert y + h <= height


def test_an_arrow_is_drawn_only_where_no_longer_way_implies_it(layers: ModuleType) -> None:
    graph = {
        "pipelines.build": {"pipelines.ingest.plan": True, "pipelines.dataset.order": True},
        "pipelines.ingest.plan": {"pipelines.dataset.order": True},
        "pipelines.dataset.order": {},
    }
    assert layers.arrows(graph) == [
        ("pipelines.build", "pipelines.ingest"),
        ("pipelines.ingest", "pipelines.dataset"),
    ]


def test_every_package_has_its_paragraph(layers: ModuleType) -> None:
    page = (DOCS / "architecture.md").read_text()
    packages = {name.rpartition(".")[2] for name in layers.modules() if layers.modules()[name].name == "__init__.py"}
    assert [name for name in sorted(packages) if not re.search(rf"^\| `{name}/` \| \w", page, re.M)] == [
        "mpc_model",
        "pipelines",
    ]


PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("experiments/*.md"), *ROOT.glob("*.md"), *ROOT.glob("infra/**/*.md")])
ENTRY_FILES = {"pyfunc_model.py", "registry_model.py"}
"""Files of a registered version, not of the repository."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", page.read_text())) - ENTRY_FILES
    folders = (page.parent, ROOT, ROOT / "pipelines", ROOT / "mpc_model")
    assert [name for name in sorted(named) if not any((folder / name).exists() for folder in folders)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        goal = (page.parent / file).resolve() if file else page
        headings = re.findall(r"^#+ (.+)", goal.read_text(), re.MULTILINE) if goal.suffix == ".md" else []
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        if not goal.exists() or (anchor and anchor not in anchors):
            broken.append(target)
    assert broken == []
