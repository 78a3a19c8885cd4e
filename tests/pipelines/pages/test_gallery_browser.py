"""The gallery in a real browser: filters, order, keys, one image large, both widths, both schemes, and how fast."""

from collections.abc import Iterator
from pathlib import Path

import browser
import cv2
import evaluated
import numpy as np
import pytest
from browser import Browser

from mpc_model.imaging import codecs
from pipelines.artifacts.evaluation import PICTURES
from pipelines.pages import evaluation

PROGRAM = browser.find()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"no browser here: one of {', '.join(browser.PROGRAMS)}")
HOSTILE = "a'\"</script><img src=x onerror=alert(1)>.jpg"
F1 = "[...document.querySelectorAll('.card')].map((card) => card.querySelector('b').textContent)"
SIDEWAYS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser.started(str(PROGRAM)) as one:
        yield one


def test_the_gallery_filters_sorts_and_is_driven_by_keys(tab: Browser, tmp_path: Path) -> None:
    rows = [*(evaluated.row(number) for number in range(40)), evaluated.row(41, HOSTILE)]
    page = f"file://{evaluation.write(str(evaluated.write(tmp_path, rows)))}"
    tab.size(1200)
    tab.open(page)
    assert tab.run(F1)[:3] == ["F1 0.010", "F1 0.020", "F1 0.030"]
    assert tab.run("document.getElementById('count').textContent") == "31 of 41 pictures"

    tab.open(f"{page}#view=best&kind=splice&low=0.2")
    assert tab.run(F1) == ["F1 0.410", "F1 0.370", "F1 0.330", "F1 0.290", "F1 0.250", "F1 0.210"]
    tab.run("document.querySelector('[data-view=alarms]').click()")
    assert tab.run("document.getElementById('none').hidden") is False
    tab.run("document.getElementById('reset').click()")
    assert tab.run(F1)[:2] == ["called forged 36.0%", "called forged 32.0%"]
    assert tab.run("location.hash") == "#view=alarms"
    tab.run("document.querySelector('[data-view=random]').click()")
    first = tab.run(F1)
    tab.run("document.querySelector('[data-view=random]').click()")
    assert sorted(tab.run(F1)) == sorted(first) != first

    tab.press("/")
    for letter in "script":
        tab.press(letter)
    assert tab.run("document.querySelector('.caption span').textContent") == HOSTILE
    assert tab.run("document.querySelectorAll('.card').length") == 1
    tab.press("Escape")
    assert tab.run("document.querySelectorAll('.card').length") == 41
    tab.run("document.querySelector('[data-view=worst]').click(); document.querySelector('.card').focus()")
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        tab.press(key)
    assert tab.run("document.querySelector('dialog').open")
    assert tab.run("document.querySelector('dialog h3').textContent").startswith("photos/")
    large = tab.run("location.hash")
    tab.press("ArrowRight")
    assert tab.run("location.hash") != large
    tab.press("ArrowLeft")
    assert tab.run("location.hash") == large
    tab.press("Escape")
    tab.until("location.hash == ''")
    assert not tab.run("document.querySelector('dialog').open")
    assert tab.run("document.activeElement.dataset.index") == "4"
    assert tab.complaints == []
    assert {address.partition("#")[0] for address in tab.requests} - {"about:blank"} == {page}


def test_the_map_lies_over_the_image_as_far_as_the_slider_says(tab: Browser, tmp_path: Path) -> None:
    level = np.zeros((20, 30), np.uint8)
    level[5:15, 10:20] = 255
    grey = cv2.imencode(".png", level)[1].tobytes()
    files = codecs.encode_jpeg(np.full((20, 30, 3), 90, np.uint8), 90), grey, grey
    rows = [evaluated.row(1, pictures=dict(zip(PICTURES, files, strict=True)))]
    tab.open(f"file://{evaluation.write(str(evaluated.write(tmp_path, rows)))}#view=all")
    pixel = "[...document.querySelector('[data-mode=over]').getContext('2d').getImageData({}, {}, 1, 1).data]"
    tab.until("document.querySelector('canvas')?.row.decoded")
    outside, inside, border = (pixel.format(*place) for place in ((2, 2), (15, 10), (10, 10)))
    assert tab.run(outside)[3] == 0
    assert tab.run(inside)[3] == pytest.approx(0.7 * 255, abs=1)
    assert tab.run(border) == [255, 255, 255, 255]
    slide = (
        "{{ const s = document.querySelector('[data-look={}]'); s.value = {}; s.dispatchEvent(new Event('input')); }}"
    )
    tab.run(slide.format("opacity", 0))
    assert tab.run(inside)[3] == 0
    tab.run(slide.format("threshold", 1))
    assert tab.run(border)[3] == 0


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_its_window_light_and_dark(tab: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    page = evaluation.write(str(evaluated.write(tmp_path, [evaluated.row(number) for number in range(8)])))
    tab.size(width, dark=dark)
    tab.open(f"file://{page}#image={evaluated.row(1)['id']}")
    assert not tab.run(SIDEWAYS)
    back, text = (
        sum(map(int, tab.run(f"getComputedStyle(document.body).{name}.match(/\\d+/g)")))
        for name in ("backgroundColor", "color")
    )
    assert (back < 150 < 500 < text) if dark else (text < 150 < 500 < back)
    assert tab.run("document.querySelector('dialog').getBoundingClientRect().right") <= width
    tab.size(1200)


@pytest.mark.slow
def test_a_thousand_images_open_in_two_seconds_and_take_25_megabytes(tab: Browser, tmp_path: Path) -> None:
    rows = []
    for number in range(1000):
        image = cv2.resize(np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8), (192, 128))
        pictures = evaluated.drawn(number, 192, 128) | {PICTURES[0]: codecs.encode_jpeg(image, 85)}
        rows.append(evaluated.row(number, pictures=pictures))
    page = evaluation.write(str(evaluated.write(tmp_path, rows)))
    assert 10e6 < Path(page).stat().st_size < 25 * 2**20
    tab.size(1200)
    seconds = tab.open(f"file://{page}")
    assert seconds < 2
    assert tab.run("document.querySelectorAll('.card').length") == len([row for row in rows if row["f1"] is not None])
    assert tab.run("document.querySelectorAll('.card img').length") < 100  # only those that are in view, or nearly
