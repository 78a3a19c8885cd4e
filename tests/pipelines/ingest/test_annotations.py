"""Masks of several files are united; objects are drawn where their polygons are, and index maps read as they are."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mpc_model.errors import DataError, MPCError
from pipelines.ingest import annotations

Ring = list[int]


def inside(x: float, y: float, ring: Ring) -> bool:
    """Whether a point lies in a polygon, by counting the edges that a ray to the right crosses."""
    corners = list(zip(ring[::2], ring[1::2], strict=True))
    crossings = 0
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            crossings += 1
    return crossings % 2 == 1


def near_edge(x: float, y: float, ring: Ring) -> bool:
    contour = np.array(ring, np.float32).reshape(-1, 1, 2)
    return abs(cv2.pointPolygonTest(contour, (x, y), True)) <= 1


def expected(outlines: list[list[Ring]], x: int, y: int) -> int | None:
    """The label of a pixel; None next to an edge, where rounding decides."""
    if any(near_edge(x, y, ring) for rings in outlines for ring in rings):
        return None
    labels = [label for label, rings in enumerate(outlines, 1) if any(inside(x, y, ring) for ring in rings)]
    return max(labels, default=0)


def item(**more: Any) -> dict[str, Any]:
    return {"image": "/x/a.jpg", "instances": None, "polygons": None} | more


STAR = [50, 5, 60, 40, 95, 40, 66, 60, 78, 92, 50, 72, 22, 92, 34, 60, 5, 40, 40, 40]
PARTS = [[10, 10, 40, 12, 25, 45], [60, 20, 90, 20, 90, 60, 60, 60]]


@pytest.mark.parametrize(
    "outlines",
    [
        [[STAR]],
        [PARTS],
        [PARTS, [STAR]],  # the later one lies over the earlier
        [[[-30, 20, 60, 50, -30, 80]], [[80, 80, 160, 80, 160, 160, 80, 160]]],  # beyond the border
        [[[10, 10, 60, 10, 60, 60, 10, 60], [40, 40, 90, 40, 90, 90, 40, 90]]],  # parts that overlap are one object
    ],
    ids=["concave", "parts", "two", "border", "overlapping parts"],
)
def test_polygons_are_drawn_where_they_are(outlines: list[list[Ring]]) -> None:
    found = annotations.read_objects(item(polygons=json.dumps(outlines)), (100, 100))
    assert found.shape == (100, 100)
    assert found.max() == len(outlines)
    wanted = {(x, y): expected(outlines, x, y) for x in range(0, 100, 3) for y in range(0, 100, 3)}
    wrong = {place: (found[place[1], place[0]], want) for place, want in wanted.items() if want is not None}
    assert {place: both for place, both in wrong.items() if both[0] != both[1]} == {}
    assert len(wrong) > 700


def test_more_objects_than_a_byte_counts() -> None:
    outlines = [[[x, y, x + 2, y, x + 2, y + 2, x, y + 2]] for y in range(0, 100, 5) for x in range(0, 100, 5)]
    found = annotations.draw_objects(outlines, (100, 100))
    assert np.unique(found).tolist() == list(range(401))
    assert np.count_nonzero(found == 300) == 9


@pytest.mark.parametrize("outlines", [[], [[]], [[[]]], [[[5, 5]]], [[[5, 5, 9, 9]]], [[[0, 0, 9, 0, 9, 9, 1]]]])
def test_odd_outlines_are_drawn_or_refused(outlines: list[list[Ring]]) -> None:
    """Files hold outlines of no area, and broken ones: neither may end a build with a crash."""
    with suppress(DataError):
        assert annotations.read_objects(item(polygons=json.dumps(outlines)), (20, 20)).shape == (20, 20)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_an_index_map_is_read_as_it_is(tmp_path: Path, kind: Any) -> None:
    numbers = np.zeros((30, 40), kind)
    numbers[5:10, 5:20] = 1
    numbers[20:25, 5:20] = np.iinfo(kind).max
    cv2.imwrite(str(tmp_path / "map.png"), numbers)
    assert np.array_equal(annotations.read_objects(item(instances=str(tmp_path / "map.png")), (30, 40)), numbers)


def test_a_photograph_without_objects_is_all_background() -> None:
    found = annotations.read_objects(item(), (30, 40))
    assert (found.shape, found.any()) == ((30, 40), False)


def test_an_index_map_of_another_size_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "map.png"), np.ones((30, 40), np.uint8))
    with pytest.raises(DataError, match=r"map\.png is 40x30, its photograph is 30x40") as error:
        annotations.read_objects(item(instances=str(tmp_path / "map.png")), (40, 30))
    assert error.value.reason == "size_mismatch"


@pytest.mark.parametrize("content", [b"", b"no image", "colour"])
def test_what_is_no_index_map_is_refused(tmp_path: Path, content: bytes | str) -> None:
    if isinstance(content, bytes):
        (tmp_path / "map.png").write_bytes(content)
    else:
        cv2.imwrite(str(tmp_path / "map.png"), np.full((30, 40, 3), (1, 2, 3), np.uint8))
    with pytest.raises(DataError, match=r"map\.png") as error:
        annotations.read_objects(item(instances=str(tmp_path / "map.png")), (30, 40))
    assert error.value.reason == "unreadable"


def test_an_index_map_that_is_lost_is_named(tmp_path: Path) -> None:
    with pytest.raises(MPCError, match=r"map\.png"):
        annotations.read_objects(item(instances=str(tmp_path / "map.png")), (30, 40))


def test_the_mask_files_of_an_item_are_lines() -> None:
    assert annotations.mask_names(None) == []
    assert annotations.mask_names("/m/a.png") == ["/m/a.png"]
    assert annotations.mask_names("/m/a.png\n/m/b.png\ns3://c/d.png") == ["/m/a.png", "/m/b.png", "s3://c/d.png"]
    assert annotations.mask_label(None) is None
    assert annotations.mask_label("/m/a.png") == "/m/a.png"
    assert annotations.mask_label("/m/a.png\n/m/b.png\ns3://c/d.png") == "/m/a.png and 2 more"
