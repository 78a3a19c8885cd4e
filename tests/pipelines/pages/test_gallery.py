"""What the gallery is given: each image once, within the bytes of a page, and nothing that could act as markup."""

import json
import re

import evaluated
import pytest
from html_page import Page

from pipelines.artifacts.evaluation import PICTURES
from pipelines.pages import gallery

HOSTILE = "a'\"</script><img src=x onerror=alert(1)>\u202egnp.jpg"


def data_of(section: str) -> dict:
    return json.loads(re.search(r"<script type=\"application/json\" id=data>(.*)</script>$", section, re.S)[1])


def test_the_data_has_every_image_with_its_pictures_and_metrics() -> None:
    rows = [evaluated.row(number) for number in range(6)]
    section = gallery.section({"photos/test": rows}, 6, 0.4)
    data = data_of(section)
    assert [row["key"] for row in data["rows"]] == [row["key"] for row in rows]
    assert data["threshold"] == 0.4
    assert (data["scale"][0], len(data["scale"])) == ([0, 0, 4], 33)
    first, second = data["rows"][:2]
    assert (first["f1"], first["called"]) == (None, 0)
    assert (second["f1"], second["set"], second["degraded"]) == (0.01, "", {"jpeg_70": 0.3})
    assert second["image"].startswith("data:image/jpeg;base64,")
    assert second["mask"].startswith("data:image/png;base64,")
    assert "All images" in section


def test_names_of_files_are_text_and_nothing_else() -> None:
    section = gallery.section({"a": [evaluated.row(1, HOSTILE)], "<b>&": [evaluated.row(1)]}, 2, 0.5)
    start = section.index("<script type")
    assert section.count("<", start) == 2  # the tag, and its end
    first, second = data_of(section)["rows"]
    assert first["key"] == HOSTILE.replace("\u202e", "\\u202e")
    assert (first["id"][:2], second["set"]) == ("a/", "<b>&")
    assert '<option value="&lt;b&gt;&amp;">' in section


def test_there_is_no_gallery_without_pictures() -> None:
    assert gallery.section({"a": []}, 9, 0.5) == ""


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_what_a_page_cannot_hold_is_left_out_evenly(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [evaluated.row(number) for number in range(48)]
    whole = sum(len(row[column]) for row in rows for column in PICTURES)
    taken = gallery.chosen(rows, int(share * whole))
    assert taken == [row for row in rows if row in taken]
    assert share * whole * 0.9 < sum(len(row[column]) for row in taken for column in PICTURES) <= share * whole
    f1 = sorted(row["f1"] for row in rows if row["f1"] is not None)
    assert {f1[0], f1[-1]} < {row["f1"] for row in taken}
    assert max(row["called_fraction"] for row in rows if row["f1"] is None) in {row["called_fraction"] for row in taken}
    monkeypatch.setattr(gallery, "PICTURE_BYTES", int(share * whole))
    section = gallery.section({"a": rows}, 60, 0.5)
    assert f"{len(taken)} of 60 images have pictures here" in section


def test_the_markup_nests() -> None:
    section = gallery.section({"a": [evaluated.row(1), evaluated.row(2)]}, 2, 0.5)
    tags = Page(section).tags
    assert {"worst", "best", "random", "alarms", "all"} == {
        attrs["data-view"] for _, attrs in tags if "data-view" in attrs
    }
    assert {"kind", "source", "low", "high", "sort", "q"} == {
        attrs["data-state"] for _, attrs in tags if "data-state" in attrs
    }
