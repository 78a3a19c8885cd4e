"""The masks of a source are read by one rule, which their levels tell, or by the one that is named."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import skimage.data

from mpc_model.errors import DataError, UserError
from pipelines.config.build import BuildConfig, SourceConfig
from pipelines.dataset.manifest import MaskReading
from pipelines.ingest import listing, mask_rules, screening, survey

PHOTO = skimage.data.astronaut()
COUNT = 20


def region(number: int, share: float = 0.1) -> np.ndarray:
    mask = np.zeros((48, 64), np.uint8)
    side = int((share * mask.size) ** 0.5)
    mask[2 + number % 8 :][:side, 3 + number :][:, :side] = 1
    return mask


def labels(number: int) -> np.ndarray:
    """A forgery of label 1 with a border of label 255."""
    mask, kernel = region(number), np.ones((3, 3))
    return np.where(cv2.dilate(mask, kernel) > cv2.erode(mask, kernel), 255, mask).astype(np.uint8)


def write(folder: Path, masks: Sequence[np.ndarray], suffix: str = ".png") -> Path:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, mask in enumerate(masks):
        cv2.imwrite(str(folder / "images" / f"{number:03}.png"), PHOTO[number:][:48, number:][:, :64])
        cv2.imwrite(str(folder / "masks" / f"{number:03}{suffix}"), mask)
    return folder


def decide(location: Path, **more: str) -> tuple[mask_rules.Decided, list[str]]:
    """What is decided of a source called "seg", and the reasons of its rejects."""
    config = BuildConfig(sources=[SourceConfig(name="seg", layout="pairs", location=str(location), **more)])
    listed = listing.list_all(config, 0)
    found = [survey.examine(item, survey.read_files(item), config.max_pixels) for item in listed.to_pylist()]
    decided = mask_rules.decide(listed, pa.Table.from_pylist(found, survey.SCHEMA))
    good, rejects = screening.screen(config, decided.listed, decided.survey)
    assert len(good) + len(rejects) == len(listed)
    assert set(good["mask_rule"].to_pylist()) <= {reading.rule for reading in decided.readings.get("seg", [])}
    return decided, [reject["reason"] for reject in rejects]


def reading(decided: mask_rules.Decided) -> MaskReading:
    (only,) = decided.readings["seg"]
    return only


Draw = Callable[[int], np.ndarray]
TOLD: dict[str, tuple[Draw, str, str]] = {
    "white": (lambda n: region(n) * 255, "bright", "masks hold 0 and 255: 255 is forged"),
    "ones": (region, "bright", "masks hold 0 and 1: 1 is forged"),
    "labels": (labels, "labels", "masks hold 0, 1 and 255: 1 is forged, 255 is ignored"),
    "labels, few with a border": (
        lambda n: region(n) if n % 4 else labels(n),
        "labels",
        "masks hold 0, 1 and 255: 1 is forged, 255 is ignored",
    ),
    "grey, small and large": (
        lambda n: region(n, 0.2 if n % 2 else 0.02) * 128,
        "nonzero",
        "masks hold 0 and 128: 128 is forged",
    ),
    "dark": (lambda n: region(n) * 76, "nonzero", "masks hold 0 and 76: 76 is forged"),
    "red": (
        lambda n: np.dstack([region(n) * 0, region(n) * 0, region(n) * 255]),
        "bright",
        "masks hold 0 and 255 (red): 255 is forged",
    ),
    "smooth": (
        lambda n: cv2.GaussianBlur(region(n) * 255, (3, 3), 0) if n else region(n) * 255,
        "bright",
        "masks hold black and white with smooth or compressed outlines: what is above 127 is forged",
    ),
    "smooth grey": (
        lambda n: cv2.GaussianBlur(region(n, 0.03) * 128, (3, 3), 0) if n else region(n) * 128,
        "above_63",
        "masks hold black and about 128 with smooth or compressed outlines: what is above 63 is forged",
    ),
}


@pytest.mark.parametrize("kind", TOLD)
def test_the_levels_of_all_masks_tell_the_rule(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw, rule, evidence = TOLD[kind]
    decided, reasons = decide(write(tmp_path / "in", [draw(n) for n in range(COUNT)]))
    found = reading(decided)
    assert (found.rule, found.evidence, found.masks, found.read, reasons) == (rule, evidence, COUNT, COUNT, [])
    assert (found.ignored > 0) == (rule == "labels")
    assert f"source seg: {evidence} (mask rule {rule}; {COUNT} of {COUNT} masks, " in capsys.readouterr().err


CONTRADICTING: dict[str, tuple[Draw, str]] = {
    "ignored or forged": (
        lambda n: labels(n) if n % 2 else region(n) * 255,
        r"10 hold 0 and 255 \(masks/000.png, masks/002.png, masks/004.png\), 10 hold 0, 1 and 255 \(masks/001.png, ",
    ),
    "all forged but ignored": (
        lambda n: region(n) * 254 + 1 if n % 2 else region(n) * 255,
        r"10 hold 0 and 255 .*, 10 hold 0, 1 and 255 ",
    ),
    "ones and white": (
        lambda n: region(n) * (255 if n % 4 else 1),
        r"15 hold 0 and 255 \(.*5 hold 0 and 1 \(masks/000",
    ),
    "several levels": (lambda n: region(n) * (1 + n % 3), "7 hold 0 and 1 .*, 7 hold 0 and 2 .*, 6 hold 0 and 3 "),
    "two colours": (
        lambda n: np.dstack([region(n) * 0, region(n) * 255 * (n % 2), region(n) * 255 * (1 - n % 2)]),
        r"10 hold 0 and 255 \(green\) .*10 hold 0 and 255 \(red\) ",
    ),
    "numbered objects": (lambda n: np.maximum(region(n), region(n, 0.02) * 2), "20 hold numbers up to 2 "),
    "no black": (lambda n: region(n) + 1, "20 hold numbers up to 2 "),
    "three levels": (lambda n: np.maximum(region(n) * 128, region(n, 0.02) * 255), "20 hold 0, 128 and 255 "),
}


@pytest.mark.parametrize("kind", CONTRADICTING)
def test_masks_that_contradict_each_other_are_refused_with_examples(kind: str, tmp_path: Path) -> None:
    draw, sides = CONTRADICTING[kind]
    with pytest.raises(DataError, match=rf"^source seg: its masks .*{sides}.*; correct them, or set mask_rule"):
        decide(write(tmp_path / "in", [draw(n) for n in range(COUNT)]))


def test_a_rule_that_is_named_wins(tmp_path: Path) -> None:
    location = write(tmp_path / "in", [labels(n) for n in range(6)] + [region(n) * 255 for n in range(6, 12)])
    decided, reasons = decide(location, mask_rule="bright")
    assert (reading(decided).sentence().split(" (")[0], reasons) == ("mask rule bright, as named", [])
    decided, reasons = decide(location, mask_rule="labels")
    assert reasons == ["empty_mask"] * 6
    assert (reading(decided).masks, reading(decided).read) == (12, 6)
    with pytest.raises(UserError, match=r"source seg: unknown mask rule 'brigth' \(did you mean 'bright'\?\)"):
        decide(location, mask_rule="brigth")


def test_the_row_of_a_listing_wins_over_its_source(tmp_path: Path) -> None:
    write(tmp_path / "in", [region(0) * 255, 255 - region(1) * 255, region(2) * 7])
    rows = [f"images/{n:03}.png,masks/{n:03}.png,{rule}" for n, rule in enumerate(("", "dark", "above_3"))]
    (tmp_path / "in" / "list.csv").write_text("\n".join(["image,mask,mask_rule", *rows]))
    decided, reasons = decide(tmp_path / "in" / "list.csv", mask_rule="red")
    assert reasons == ["empty_mask"]
    assert decided.listed["mask_rule"].to_pylist() == ["red", "dark", "above_3"]
    decided, reasons = decide(tmp_path / "in" / "list.csv")
    assert reasons == []
    assert [(found.rule, bool(found.evidence), found.masks) for found in decided.readings["seg"]] == [
        ("bright", True, 1),
        ("above_3", False, 1),
        ("dark", False, 1),
    ]
    assert mask_rules.given(listing_of(tmp_path / "in" / "list.csv")) == {"seg": {"dark": 1, "above_3": 1}}


def listing_of(location: Path, **more: str) -> pa.Table:
    return listing.list_all(
        BuildConfig(sources=[SourceConfig(name="seg", layout="pairs", location=str(location), **more)]), 0
    )


def test_a_few_strays_are_left_out_and_named(tmp_path: Path) -> None:
    masks = [region(n) * 255 for n in range(COUNT)] + [region(0) * 0 + 1]
    masks[3] = region(3)
    decided, reasons = decide(write(tmp_path / "in", masks))
    assert reasons == ["mask_levels", "full_mask"]  # a mask of one level says nothing, for or against
    assert (reading(decided).masks, reading(decided).read) == (COUNT + 1, COUNT)
    surveyed = decided.survey.slice(3, 1).to_pylist()[0]
    assert "masks/003.png holds 0 and 1, and the masks of source seg hold 0 and 255" in surveyed["message"]
    assert surveyed["image_sha256"] is None


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        ([region(n) * 0 for n in range(3)], "empty_mask"),
        ([region(n) * 0 + 255 for n in range(3)], "full_mask"),
        ([np.where(labels(n) == 1, 0, labels(n)) for n in range(1)] + [labels(n) for n in range(1, 30)], "mask_levels"),
        ([region(0) * 0 + 255] + [labels(n) for n in range(1, 10)], "empty_mask"),
    ],
    ids=["only 0", "only 255", "only the border", "all ignored"],
)
def test_masks_without_a_forgery_or_without_anything_else(masks: list[np.ndarray], reason: str, tmp_path: Path) -> None:
    _, reasons = decide(write(tmp_path / "in", masks))
    assert set(reasons) == {reason}


def test_what_is_hardly_meant_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decide(write(tmp_path / "inverted", [255 - region(n) * 255 for n in range(4)]))
    assert "on average 91% of the pixels of its masks are forged" in capsys.readouterr().err
    rare = [region(n) * 255 for n in range(4)]
    for mask in rare:
        mask[40, 60] = 1
    decide(write(tmp_path / "rare", rare))
    assert "if 255 is the forgery, set mask_rule: bright" in capsys.readouterr().err


def test_a_request_is_that_of_earlier_versions_unless_a_rule_is_named(tmp_path: Path) -> None:
    """They knew no key mask_rule, and listed masks without one as bright."""
    location = write(tmp_path / "in", [region(0) * 255])

    def digest(**more: str) -> str:
        config = BuildConfig(sources=[SourceConfig(name="seg", layout="pairs", location=str(location), **more)])
        return listing.digest(config, 0, listing.list_all(config, 0))

    assert digest() == digest(mask_rule="auto")
    assert len({digest(), digest(mask_rule="bright"), digest(mask_rule="labels")}) == 3
    (tmp_path / "in" / "list.csv").write_text("image,mask,mask_rule\nimages/000.png,masks/000.png,\n")
    config = BuildConfig(sources=[SourceConfig(name="seg", layout="pairs", location=f"{location}/list.csv")])
    unnamed = listing.digest(config, 0, listing.list_all(config, 0))
    (tmp_path / "in" / "list.csv").write_text("image,mask,mask_rule\nimages/000.png,masks/000.png,bright\n")
    assert listing.digest(config, 0, listing.list_all(config, 0)) == unnamed
