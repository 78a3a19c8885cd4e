"""The page of an evaluation: made from its files, of this version and of earlier ones, and of several sets."""

import json
from pathlib import Path

import evaluated
import pytest
from html_page import Page

from mpc_model.errors import UserError
from pipelines.artifacts import evaluation as files
from pipelines.pages import evaluation

CLASS_SUMMARY = {
    "dataset_level": {"foreground_dice": 0.5, "mean_iou": 0.4, "accuracy": 0.8},
    "by_class": {"road": {"iou": 0.7, "dice": 0.8}, "<car>": {"iou": None, "dice": None}},
}
CLASSES = {
    **dict.fromkeys(("model", "untrained", "most_frequent"), CLASS_SUMMARY),
    "robustness": {"jpeg_70": CLASS_SUMMARY},
    "classes": ["road", "<car>"],
    "precision": "fp32",
    "against_fp32": None,
    "dataset": "runs/camvid",
    "split": "test",
    "fingerprint": "cd" * 32,
    "warnings": ["trained on"],
}


AVERAGES = {"weighted_f1": 0.5, "weighted_iou": 0.4, "plain_f1": 0.25, "plain_iou": 0.125}
PUBLISHED = [
    {
        "set": "casia", "test_set": "CASIA v1", "method": "MPC", "protocol": "large", "f1": 0.745, "iou": 0.686,
        "source": "Lou et al.",
    },
    {
        "set": "casia", "test_set": "CASIA v1", "method": "this model<b>", "protocol": "-", "f1": 0.61, "iou": 0.5,
        "source": "", "note": "not trained on the same data",
    },
]  # fmt: skip


def test_a_page_is_made_of_the_files_and_written_beside_them(tmp_path: Path) -> None:
    output = evaluated.write(tmp_path / "evaluate", [evaluated.row(number) for number in range(9)])
    assert evaluation.write(str(output)) == str(output / "report.html")
    text = (output / "report.html").read_text()
    page = Page(text)
    assert "Evaluation of photos/test" in page.text
    (output / "config.yaml").write_text("evaluate: {model: 's3://key:secret@bucket/<model>'}")
    assert "model s3://***@bucket/<model>" in Page(evaluation.made(str(output))).text
    (output / "config.yaml").unlink()
    assert {attrs.get("src", "data:")[:5] for tag, attrs in page.tags if tag == "img"} <= {"data:"}
    assert not [attrs for _, attrs in page.tags if "href" in attrs or "onclick" in attrs]
    assert text == evaluation.made(str(output))


def test_a_page_that_is_missing_is_made_and_a_damaged_file_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = evaluated.write(tmp_path, [evaluated.row(1)])
    evaluation.restore(str(output))
    assert (output / "report.html").read_text() == evaluation.made(str(output))
    (output / "report.html").write_text("as it was")
    evaluation.restore(str(output))
    assert (output / "report.html").read_text() == "as it was"
    (output / "report.html").unlink()
    (output / "metrics.json").write_text("{")
    evaluation.restore(str(output))
    assert "the page is not written: " in capsys.readouterr().err


def test_images_are_counted_by_kind_and_only_those_with_pictures_are_rows(tmp_path: Path) -> None:
    without = {**evaluated.row(2), **dict.fromkeys(files.PICTURES)}
    perfect = {**evaluated.row(3), "f1": 1.0}
    images = evaluation.read_images(
        str(evaluated.write(tmp_path, [evaluated.row(0), evaluated.row(1), without, perfect]))
    )
    assert images.count == 4
    assert {kind: counts.sum() for kind, counts in images.f1_by_kind.items()} == {
        "splice": 1,
        "copy_move": 1,
        "remove": 1,
    }
    assert images.f1_by_kind["remove"][-1] == 1
    assert [row["id"] for row in images.pictured] == [evaluated.row(number)["id"] for number in (0, 1, 3)]


def test_several_sets_are_on_one_page(tmp_path: Path) -> None:
    for name in ("casia", "coverage"):
        evaluated.write(tmp_path / "sets" / name, [evaluated.row(1), evaluated.row(2)], name=name)
    sets = {name: evaluated.metrics() for name in ("casia", "coverage")}
    (tmp_path / files.FILE_NAME).write_text(json.dumps({"sets": sets, "averages": AVERAGES, "published": PUBLISHED}))
    text = evaluation.made(str(tmp_path))
    assert "Evaluation of 2 sets" in text
    assert text.count("<details class=set>") == 2
    words = Page(text).text
    assert "weighted by forged images0.50000.4000one vote a set0.25000.1250" in words
    assert "casiaCASIA v1MPClarge0.74500.6860Lou et al." in words
    assert "casiaCASIA v1this model<b>-0.61000.5000not trained on the same data" in words
    assert text.count("<tr class=ours>") == 1
    assert text.count("2 test images were trained on") == 4  # of each set, at the top and in its part
    assert '<option value="coverage">' in text


def test_a_model_of_several_classes_has_a_page(tmp_path: Path) -> None:
    (tmp_path / files.FILE_NAME).write_text(json.dumps(CLASSES))
    (tmp_path / evaluation.SHEET).write_bytes(b"\x89PNG of a sheet")
    page = Page(evaluation.made(str(tmp_path)))
    assert "foreground dice0.50000.50000.5000" in page.text
    assert "<car>--" in page.text
    assert "jpeg_700.50000.40000.8000" in page.text
    assert [attrs["class"] for tag, attrs in page.tags if tag == "img"] == ["sheet"]


def test_an_evaluation_of_an_earlier_version_shows_its_sheet(tmp_path: Path) -> None:
    output = evaluated.write(tmp_path, [])
    (output / files.IMAGES).unlink()
    (output / evaluation.SHEET).write_bytes(b"\x89PNG of a sheet")
    page = Page(evaluation.made(str(output)))
    assert [attrs["class"] for tag, attrs in page.tags if tag == "img"] == ["sheet"]
    assert "Gallery" not in page.text


@pytest.mark.parametrize(
    ("name", "content"), [(files.FILE_NAME, b"{"), (files.FILE_NAME, b'{"model": 1}'), (files.IMAGES, b"PAR1")]
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    evaluated.write(tmp_path, [evaluated.row(1)])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        evaluation.made(str(tmp_path))
