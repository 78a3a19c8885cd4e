"""docs/architecture.md: its picture is drawn from the imports as they are."""

import importlib.util
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[2] / "docs"


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
