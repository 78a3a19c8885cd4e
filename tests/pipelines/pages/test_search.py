"""The page of a search: its ranking, its plots and its best settings."""

from pathlib import Path

import recorded
from html_page import Page

from pipelines.pages import search


def test_ranking_importances_plots_and_best_settings_are_there(tmp_path: Path) -> None:
    page = Page(search.made(str(recorded.search(tmp_path))))
    assert "1finished0.51230.1" in page.text
    assert "0stopped0.250.9<b>" in page.text
    assert "pretrain.temperature75%" in page.text
    assert "2 trials are few" in page.text
    assert "seed: 7" in page.text
    assert [attrs["alt"] for tag, attrs in page.tags if tag == "img"] == ["curves.png"]


def test_long_rankings_are_cut(tmp_path: Path) -> None:
    rows = [{"trial": str(number), "state": "finished"} for number in range(search.SHOWN + 5)]
    text = Page(search.page({}, rows, "", None)).text
    assert "and 5 more in trials.csv" in text
    assert "No trial." in Page(search.page({}, [], "", None)).text
