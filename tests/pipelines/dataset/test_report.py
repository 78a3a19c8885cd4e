"""The page and the summary of a dataset: self-contained, the same each time, and true to the numbers they are given."""

import base64
import re
from typing import Any

import cv2
import numpy as np
import pytest
from html_page import Page

from mpc_model.imaging import codecs
from pipelines.dataset import report
from pipelines.dataset.counts import of_rows
from pipelines.dataset.duplicates import NearDuplicates
from pipelines.dataset.manifest import Manifest, MaskReading, SourceCounts
from pipelines.dataset.rejects import REASONS

NONE_NEAR = NearDuplicates(4, 0, 0, 0, ())


def rows(count: int = 80, shortcut: bool = False) -> list[dict[str, Any]]:
    """Rows over three splits and two sources, half of them forged; with a shortcut, those of another quality."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(count):
        forged = number % 2 == 0
        image = cv2.resize(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8), (96, 64))
        mask = np.zeros((64, 96), np.uint8)
        if forged:
            top, left = generator.integers(0, (52, 80))
            mask[top : top + 12, left : left + 16] = 1
        stored = {"image": codecs.encode_png(image), "mask": codecs.encode_mask(mask), "done": "[]"}
        other = {**stored, "image": codecs.encode_jpeg(image, 77), "done": '[{"op": "jpeg", "quality": 77}]'}
        made.append(
            {
                "key": f"a<b>{number % 4 // 2}/{number}.png",
                "source": f"a<b>{number % 4 // 2}",
                "split": ("train", "train", "train", "test")[number // 4 % 4],
                "kind": "splice" if forged else "authentic",
                "height": 64,
                "width": 96,
                "jpeg_quality": (70 if forged else 90) if shortcut else 85,
                "forged_fraction": float(mask.mean()),
                "forged_pixels": int(mask.sum()),
                "views": [stored, other],
            }
        )
    return made


def manifest_of(samples: list[dict[str, Any]]) -> Manifest:
    names = sorted({row["source"] for row in samples})
    counts = {name: sum(row["source"] == name for row in samples) for name in names}
    return Manifest.model_construct(
        config={},
        request="",
        seed=7,
        row_group=1,
        views=2,
        sources={n: SourceCounts(repeat=20, listed=c + 1234, samples=c, rejected=1234) for n, c in counts.items()},
        splits={},
        shards=[],
        statistics=of_rows(samples).to_json(),
        near_duplicates=NONE_NEAR,
        rejects="",
    )


def page_of(samples: list[dict[str, Any]], rejects: Any = (), near: NearDuplicates = NONE_NEAR) -> str:
    return report.dataset_page(manifest_of(samples), of_rows(samples), rejects, samples, near)


def test_the_page_needs_nothing_else_and_is_the_same_each_time() -> None:
    page = page_of(rows())
    assert page == page_of(rows())
    tags = Page(page).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object"}
    addresses = [attrs[name] or "" for _, attrs in tags for name in ("src", "href") if name in attrs]
    assert addresses
    assert all(re.match(r"data:image/(png|jpeg);base64,", address) for address in addresses)
    assert not re.search(r"https?:|url\(|@import", page)


def test_the_page_says_what_the_numbers_are() -> None:
    samples = rows()
    page = Page(page_of(samples))
    assert manifest_of(samples).fingerprint in page.text
    forged_in_test = sum(row["split"] == "test" and row["kind"] == "splice" for row in samples)
    in_test = sum(row["split"] == "test" for row in samples)
    assert f"testall{in_test - forged_in_test}{forged_in_test}{in_test}" in page.text
    assert "a<b>01,274401,2342020" in page.text  # listed, written, left out, forged, times an epoch: escaped and shown
    assert "No shortcut found, and both classes in every split." in page.text
    assert "guessed instored fileJPEG quality of the sourcesizesourcetrain50%50%50%50%testtoo few" in page.text
    assert "Nothing: every listed sample is in the dataset." in page.text
    assert "None: no two images" in page.text


def test_shortcuts_come_first() -> None:
    page = Page(page_of(rows(shortcut=True))).text
    first, rest = page.split("Samples", 1)
    assert "JPEG quality of the source file alone tells forged from authentic images: 100% right in train" in first
    assert "No shortcut" not in first + rest


def test_rejects_are_counted_by_reason_with_what_it_means_and_examples() -> None:
    reasons = ["truncated"] * 5 + ["duplicate"] * 2 + ["some_new_code"]
    rejects = [{"reason": reason, "message": f"{n}.jpg & more"} for n, reason in enumerate(reasons)]
    text = Page(page_of(rows(), rejects)).text
    assert f"truncated5{REASONS['truncated']}0.jpg & more1.jpg & more2.jpg & more" in text
    assert f"duplicate2{REASONS['duplicate']}5.jpg & more6.jpg & more" in text
    assert "some_new_code17.jpg & more" in text
    assert "3.jpg & more" not in text


def test_near_duplicates_are_named() -> None:
    text = Page(page_of(rows(), near=NearDuplicates(3, 1200, 500, 2, (("a/x.png", "b/y.png", 1),)))).text
    assert "1,200 images, in 500 groups, are near-duplicates (difference hashes within 3 of 64 bits)" in text
    assert "2 of them have one in another split" in text
    assert "a/x.png and b/y.png: 1 bits apart" in text


def test_how_masks_were_read_is_said_on_the_page_and_in_lines() -> None:
    told = MaskReading(
        rule="labels", evidence="masks hold 0, 1 and 255: 1 is forged", masks=9, read=8, forged=0.125, ignored=0.0321
    )
    named = MaskReading(rule="dark", evidence="", masks=4, read=4, forged=0.2, ignored=0)
    manifest = manifest_of(rows()).model_copy(update={"masks": {"a<b>": [told, named]}})
    lines = report.mask_lines(manifest)
    assert lines == [
        "a<b>: masks hold 0, 1 and 255: 1 is forged (mask rule labels; 8 of 9 masks, 12.5% of their pixels forged,"
        " 3.2% ignored)",
        "a<b>: mask rule dark, as named (4 of 4 masks, 20.0% of their pixels forged)",
    ]
    text = Page(report.dataset_page(manifest, of_rows(rows()), (), rows(), NONE_NEAR)).text
    assert all(line in text for line in lines)
    assert "How masks were read" not in Page(page_of(rows())).text


def test_pictures_show_the_outline_of_the_mask_for_every_split_source_and_kind() -> None:
    samples = rows()
    figures = [(attrs["alt"], attrs["src"]) for tag, attrs in Page(page_of(samples)).tags if tag == "img"]
    by_key = {row["key"]: row for row in samples}
    shown = [by_key[alt] for alt, _ in figures if alt in by_key]
    assert {(r["split"], r["source"], r["kind"]) for r in shown} == {
        (r["split"], r["source"], r["kind"]) for r in samples
    }
    assert len(shown) == report.PICTURED + report.WITH_VIEWS * 2
    alt, address = next((alt, address) for alt, address in figures if alt in by_key and by_key[alt]["kind"] == "splice")
    data = base64.b64decode(str(address).split(",", 1)[1])
    drawn = codecs.decode_image(data, "page").astype(int)
    plain = codecs.decode_image(by_key[alt]["views"][0]["image"], "row").astype(int)
    changed = np.abs(drawn - plain).sum(axis=2)
    mask = codecs.decode_mask(by_key[alt]["views"][0]["mask"], "row")
    border = (mask - cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=0)).astype(bool)
    assert (
        changed[border].mean() > 5 * changed[cv2.dilate(border.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0].mean()
    )


def test_views_say_what_was_done_to_them() -> None:
    assert Page(page_of(rows())).text.count("jpeg quality 77") == report.WITH_VIEWS


def test_a_dataset_of_one_class_has_a_page() -> None:
    authentic = [row for row in rows() if row["kind"] == "authentic"]
    text = Page(page_of(authentic)).text
    assert "No forged images." in text
    assert "Split train has no forged image: there is nothing to find in it." in text
    assert report.summary_lines(manifest_of(authentic), of_rows(authentic))


@pytest.mark.parametrize("shortcut", [True, False])
def test_the_summary_has_aligned_columns_and_the_shortcuts(shortcut: bool) -> None:
    samples = rows(shortcut=shortcut)
    lines = report.summary_lines(manifest_of(samples), of_rows(samples))
    assert manifest_of(samples).fingerprint in lines[0]
    start = next(n for n, line in enumerate(lines) if line.startswith("split"))
    block = lines[start : lines.index("", start)]
    assert len({len(line) for line in block}) == 1
    assert block[1].split() == ["train", "all", "30", "30", "60"]
    assert any(line.startswith("! The JPEG quality") for line in lines) == shortcut
    assert ("! No shortcut found, and both classes in every split." in lines) != shortcut
