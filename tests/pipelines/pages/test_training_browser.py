"""The page of a training in a real browser: one sheet at a time, by the slider."""

from pathlib import Path

import browser
import pytest
import recorded

from pipelines.pages import training

PROGRAM = browser.find()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"no browser here: one of {', '.join(browser.PROGRAMS)}")


def test_the_slider_shows_one_sheet_at_a_time(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(training.made(str(recorded.training(tmp_path / "finetune"))))
    shown = "[...document.querySelectorAll('.over-time')].map((sheet) => sheet.offsetHeight > 0)"
    with browser.started(str(PROGRAM)) as tab:
        tab.size(400, dark=True)
        tab.open(f"file://{page}")
        assert tab.run(shown) == [False, False, True]
        tab.run(
            "{ const s = document.querySelector('#time input'); s.value = 0; s.dispatchEvent(new Event('input')); }"
        )
        assert tab.run(shown) == [True, False, False]
        assert not tab.run("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        assert tab.complaints == []
        assert [address for address in tab.requests if address != "about:blank"] == [f"file://{page}"]
