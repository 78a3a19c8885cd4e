"""Plots, tables and pictures as text: in proportion, escaped, and readable back."""

import base64
import hashlib
import re

import numpy as np
import pytest
from html_page import Page

from mpc_model.imaging import codecs
from pipelines.dataset import html


def test_bars_are_as_high_as_their_values() -> None:
    drawn = html.bars(["a", "b&c"], {"one": [1, 4], "two": [2, 0]}, "x <1>", "y")
    heights = [float(height) for height in re.findall(r'<rect[^>]* height="([\d.]+)"', drawn)]
    assert heights == pytest.approx([heights[1] / 2, 2 * heights[0], heights[3] * 0 + heights[0] * 4, 0], rel=0.01)
    page = Page(drawn)
    assert "x <1>" in page.text
    assert "b&c" in page.text
    stacked = html.bars(["a"], {"one": [1], "two": [3]}, "x", "y", stacked=True)
    (low, high) = [
        (float(y), float(h)) for y, h in re.findall(r' y="([\d.]+)" width="[^"]+" height="([\d.]+)"', stacked)
    ]
    assert high[1] == pytest.approx(3 * low[1], rel=0.01)
    assert high[0] + high[1] == pytest.approx(low[0], abs=0.11)


def test_an_axis_ends_just_above_the_largest_value() -> None:
    for value in (0, 0.3, 1, 3, 4, 7, 10, 99, 1234, 843_991):
        top = html._rounded_up(value)
        assert value <= top <= max(1, 2.5 * value)
        assert str(top).strip("0.")[0] in "124"


@pytest.mark.parametrize(("count", "said"), [(0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (5 << 40, "5 TiB")])
def test_sizes_in_words(count: int, said: str) -> None:
    assert html.byte_size(count) == said


def test_blocks_are_in_proportion() -> None:
    assert html.blocks([0, 1, 4, 8]) == " ▁▄█"
    assert html.blocks([0, 0]) == "  "
    assert html.blocks([]) == ""


def test_a_table_has_its_cells_escaped_and_numbers_on_the_right() -> None:
    page = Page(html.table(("name", "count"), [("<a>", "1"), ("b&c", "22")]))
    assert page.text == "namecount<a>1b&c22"
    cells = [(tag, attrs.get("class")) for tag, attrs in page.tags if tag in ("th", "td")]
    assert cells == [("th", None), ("th", "n"), *[("td", None), ("td", "n")] * 2]


def test_a_figure_holds_its_picture_and_lines() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    page = Page(html.figure(image, 'alt "<x>"', "first & <b>", "second"))
    (attributes,) = (attrs for tag, attrs in page.tags if tag == "img")
    assert attributes["alt"] == 'alt "<x>"'
    kind, _, data = str(attributes["src"]).partition(";base64,")
    assert kind == "data:image/jpeg"
    assert base64.b64decode(data) == codecs.encode_jpeg(image, 80)
    assert page.text == "first & <b>second"


def test_columns_of_text_are_aligned() -> None:
    lines = html.columns(("name", "n"), [("a", "1"), ("longer", "1,234")])
    assert lines == ["name        n", "a           1", "longer  1,234"]


def test_text_neither_marks_up_nor_turns_the_line() -> None:
    assert html.escape("<script>\"&'\u202egnp\u2066\u200b\n") == (
        "&lt;script&gt;&quot;&amp;&#x27;\\u202egnp\\u2066\\u200b\\x0a"
    )


def test_a_document_lets_a_browser_load_nothing_and_run_its_own_script_alone() -> None:
    policies = []
    for script in ("", "document.title = 'read'"):
        page = Page(html.document("<a>", "<p>text</p>", "p { color: red }", script))
        assert page.text.startswith("<a>")
        policies += [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv")]
    digest = base64.b64encode(hashlib.sha256(b"document.title = 'read'").digest()).decode()
    assert "script-src" not in str(policies[0])
    assert f"script-src 'sha256-{digest}';" in str(policies[1])
    assert all(str(policy).startswith("default-src 'none';") for policy in policies)


def test_a_legend_has_the_colours_of_the_chart_or_those_it_is_given() -> None:
    marks = [attrs for tag, attrs in Page(html.legend(["a", "b<"])).tags if tag == "i"]
    assert [mark["class"] for mark in marks] == ["s0", "s1"]
    marks = [attrs for tag, attrs in Page(html.legend(["a"], ["#ff0000"])).tags if tag == "i"]
    assert marks == [{"style": "background:#ff0000"}]
