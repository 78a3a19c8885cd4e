"""Files of an output on its page: text stays text, and what is not there is left out."""

from pathlib import Path

from html_page import Page

from pipelines.pages import files


def test_settings_are_folded_text(tmp_path: Path) -> None:
    assert files.settings(str(tmp_path)) == ""
    (tmp_path / "config.yaml").write_text("a: <b>\n  c: \u202e1\n")
    page = Page(files.settings(str(tmp_path)))
    assert "a: <b>\n  c: \\u202e1" in page.text
    assert "details" in [tag for tag, _ in page.tags]


def test_pictures_that_are_there_are_shown(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    tags = Page(files.pictures(str(tmp_path), ["a.png", "b.png"])).tags
    assert [attrs["src"] for tag, attrs in tags if tag == "img"] == ["data:image/png;base64,iVBORw=="]


def test_a_config_that_is_not_there_or_damaged_has_no_sections(tmp_path: Path) -> None:
    assert files.config(str(tmp_path)) == {}
    for text, sections in (("a: {b: 1}\nc: 2\n", {"a": {"b": 1}}), ("[", {}), ("- a", {})):
        (tmp_path / "config.yaml").write_text(text)
        assert files.config(str(tmp_path)) == sections
