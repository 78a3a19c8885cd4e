"""The page of predictions: what it holds, and that no name is markup or leaves the folder."""

import json
import re
from pathlib import Path

import browser
import numpy as np
import pytest

from mpc_model.imaging import codecs
from pipelines.pages import predictions
from pipelines.pages.predictions import Prediction


def made(name: str, **more: object) -> Prediction:
    files = {"picture": f"overlays/{name}.jpg", "map": f"maps/{name}.png"}
    return {"name": name, **files, "score": 0.123456, "share": 0.5, "forged": True, "error": None, **more}


def data(page: str) -> list[list[object]]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_names_are_no_markup_and_addresses_are_quoted() -> None:
    hostile = '</script><script>alert("1")</script> #?&\u202e.png'
    page = predictions.page(
        [("1", "images")], ["Images of <b>."], [made(hostile), made("no/such", error="<i>", map=None)]
    )
    assert page.count("<script") == 2
    assert "<b>." not in page
    assert "<i>" not in page
    (name, picture, map_file, score, share, forged, error), (*_, no_map) = data(page)
    assert "alert" in name
    assert "\u202e" not in name
    assert picture == "overlays/%3C/script%3E%3Cscript%3Ealert%28%221%22%29%3C/script%3E%20%23%3F%26%E2%80%AE.png.jpg"
    assert map_file.startswith("maps/%3C/script")
    assert (score, share, forged, error, no_map) == (0.1235, 0.5, True, None, "<i>")


def test_ten_thousand_images_are_one_file_of_a_few_megabytes() -> None:
    page = predictions.page([], [], [made(f"folder/photo-{number:06}.jpg") for number in range(predictions.SHOWN)])
    assert len(data(page)) == predictions.SHOWN
    assert len(page) < 3 * 2**20
    assert "img-src data: 'self'" in page


@pytest.mark.skipif(browser.find() is None, reason=f"no browser here: one of {', '.join(browser.PROGRAMS)}")
def test_the_page_turns_sorts_and_enlarges_in_a_browser(tmp_path: Path) -> None:
    """250 images, a hundred at a time; the pictures lie beside the page, and nothing else is asked for."""
    (tmp_path / "overlays").mkdir()
    images = [made(f"a #{number:03}.png", map=None, score=number / 250, forged=number > 200) for number in range(250)]
    for one in images:
        file = tmp_path / str(one["picture"])
        file.write_bytes(codecs.encode_jpeg(np.full((8, 12, 3), 90, np.uint8), 80))
    (tmp_path / "index.html").write_text(predictions.page([], [], images))
    names = "[...document.querySelectorAll('#cards img')].map((one) => one.alt)"
    with browser.started(str(browser.find())) as tab:
        tab.size(1200)
        tab.open(f"file://{tmp_path}/index.html")
        assert tab.run(names) == [f"a #{number:03}.png" for number in range(249, 149, -1)]
        tab.until("document.querySelector('#cards img').naturalWidth == 12")
        tab.press("ArrowRight")
        assert tab.run(names)[0] == "a #149.png"
        tab.run("document.querySelector('#cards figure').focus()")
        tab.press("Enter")
        assert tab.run("document.getElementById('large').open")
        for _ in range(100):
            tab.press("ArrowRight")
        assert tab.run("document.getElementById('title').textContent").startswith("201 of 250: a #049.png")
        tab.press("Escape")
        tab.until(f"{names}[0] == 'a #049.png'")  # its page
        assert len(tab.run(names)) == 50
        tab.run("which.value = 'forged'; order.value = 'low'; which.dispatchEvent(new Event('change'))")
        assert tab.run(names)[:2] == ["a #201.png", "a #202.png"]
        tab.run("words.value = '#24 PNG'; words.dispatchEvent(new Event('input'))")
        assert tab.run("document.getElementById('place').textContent") == "1 to 10 of 10"
        tab.size(400)
        assert not tab.run("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        assert tab.complaints == []
        assert all(address.startswith(f"file://{tmp_path}/") for address in tab.requests)
