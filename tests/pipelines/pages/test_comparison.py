"""The page of a comparison: what was compared is there, and what comes from outside is escaped."""

from html_page import Page

from pipelines.artifacts.comparison import ComparedMetric, ComparedSet
from pipelines.pages.comparison import page

METRIC: ComparedMetric = {
    "first": 0.5,
    "second": 0.5312,
    "difference": 0.0312,
    "low": 0.0101,
    "high": 0.0499,
    "images": 1234,
    "shown": True,
}
SET: ComparedSet = {
    "name": "coverage/test",
    "split": "test",
    "fingerprint": "ab" * 32,
    "precision": "fp32",
    "images": 2000,
    "unmatched": 3,
    "verdict": "B is better by 0.031 [0.010, 0.050]",
    "metrics": {"best_f1": METRIC},
    "slices": [{"by": "kind", "value": "<b>splice", **METRIC, "shown": False}],
    "most_apart": [{"id": "7", "key": "", "first": 0.9, "second": 0.1}],
}


def test_the_page_has_the_verdict_the_tables_and_the_images() -> None:
    made = page({"first": "/a", "second": "<script>", "sets": [SET], "only_first": [], "only_second": ["korus"]})
    text = Page(made).text
    for expected in (
        "A: /aB: <script>",
        "coverage/testB is better by 0.031 [0.010, 0.050]2000 images, 3 of one of the two alone left out",
        "best f10.50000.53120.03120.0101 to 0.04991,234yes",
        "kind: <b>splice0.50000.53120.03120.0101 to 0.04991,234no",
        "70.90000.1000-0.8000",
        "Of B alone, not compared: korus",
    ):
        assert expected in text


def test_images_that_have_pictures_are_shown_with_both_maps() -> None:
    pictures = {"7": [b"image", b"\x89PNG mask", b"map a", b"map b"]}
    result = {"first": "/a", "second": "/b", "sets": [SET], "only_first": [], "only_second": []}
    shown = Page(page(result, [pictures]))
    sources = [str(values["src"]).partition(";")[0] for tag, values in shown.tags if tag == "img"]
    assert sources == ["data:image/jpeg", "data:image/png", "data:image/jpeg", "data:image/jpeg"]
    assert "imagemaskmap of A, F1 0.900map of B, F1 0.100" in shown.text
    assert not any(tag == "img" for tag, _ in Page(page(result)).tags)


def test_a_set_without_slices_and_without_images_that_differ_has_no_empty_tables() -> None:
    text = Page(
        page(
            {
                "first": "/a",
                "second": "/a",
                "sets": [{**SET, "slices": [], "most_apart": [], "unmatched": 0}],
                "only_first": [],
                "only_second": [],
            }
        )
    ).text
    assert "slice" not in text.replace("twenty slices", "")
    assert "differs most" not in text
    assert "left out" not in text
