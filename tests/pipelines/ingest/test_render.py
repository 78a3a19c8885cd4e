"""Rows rendered from real photographs: what a row says is what its pixels are, compared with the source files."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image as Pillow

from mpc_model.errors import DataError
from mpc_model.imaging import codecs
from pipelines.config.build import BuildConfig, ForgeConfig, SourceConfig, ViewsConfig
from pipelines.ingest import listing, mask_rules, plan, render, screening, survey
from pipelines.ingest.plan import PlannedSample

KINDS = ("splice", "copy_move", "copy_move_outline", "remove")
SEED = 5
Row = dict[str, Any]
Sources = Callable[..., SourceConfig]


def only(kind: str, **more: Any) -> ForgeConfig:
    return ForgeConfig(**{name: float(name == kind) for name in KINDS}, **more)


@pytest.fixture(scope="module")
def coco(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs as JPEG of quality 90, two known objects in each but one: number 1 lies in the top left."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "images").mkdir()
    (folder / "instances").mkdir()
    for file in sorted(photos.iterdir()):
        cv2.imwrite(str(folder / "images" / f"{file.stem}.jpg"), cv2.imread(str(file)), [cv2.IMWRITE_JPEG_QUALITY, 90])
        objects = np.zeros((192, 256), np.uint8)
        cv2.ellipse(objects, (70, 60), (50, 40), 0, 0, 360, 1, -1)
        cv2.ellipse(objects, (190, 130), (40, 50), 0, 0, 360, 2, -1)
        if file.stem != "coffee":
            cv2.imwrite(str(folder / "instances" / f"{file.stem}.png"), objects)
    return folder


def source(folder: Path, layout: str = "photos", **more: Any) -> SourceConfig:
    return SourceConfig(name="mine", layout=layout, location=str(folder), split="train", **more)


def planned(of: SourceConfig) -> list[PlannedSample]:
    """The samples of a source as a build plans them, the bad ones left out."""
    config = BuildConfig(sources=[of], near_duplicates="stop")
    listed = listing.list_all(config, SEED)
    found = [survey.examine(row, survey.read_files(row), config.max_pixels) for row in listed.to_pylist()]
    decided = mask_rules.decide(listed, pa.Table.from_pylist(found, survey.SCHEMA))
    good, _ = screening.screen(config, decided.listed, decided.survey)
    made, _ = plan.make(config, SEED, good)
    return [sample for shard in made.shards for sample in made.samples(shard)]


def rendered(of: SourceConfig, views: int = 0) -> dict[str, Row]:
    """Rows by key; a photograph in which no forgery comes about is left out."""
    rows = {}
    for sample in planned(of):
        try:
            rows[sample.key], mask, scribble = render.render(
                sample, render.read_files(sample), of, ViewsConfig(policy="light", count=views), SEED
            )
            assert np.array_equal(mask, canonical(rows[sample.key])[1])
            assert scribble is None
        except DataError as error:
            if error.reason != render.NOT_FORGED:
                raise
    return rows


def canonical(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and mask of view 0, decoded by OpenCV alone."""
    view = row["views"][0]
    bgr = cv2.imdecode(np.frombuffer(view["image"], np.uint8), cv2.IMREAD_COLOR)
    mask = cv2.imdecode(np.frombuffer(view["mask"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(mask)) <= {0, 1, 255}
    return bgr[..., ::-1], (mask > 0).astype(np.uint8)


def photo_of(folder: Path, key: str) -> np.ndarray:
    return cv2.imread(str(folder / key.split("/", 1)[1].split("#")[0]))[..., ::-1]


def untouched(mask: np.ndarray, recipe: dict[str, Any], crop: bool = False) -> np.ndarray:
    """Pixels that the blending cannot have reached; of a crop, not from a region just beyond its border either."""
    feather = int(recipe["feather"])
    around = cv2.copyMakeBorder(mask, feather, feather, feather, feather, cv2.BORDER_CONSTANT, value=int(crop))
    reached = cv2.dilate(around, np.ones((2 * feather + 1, 2 * feather + 1), np.uint8))
    height, width = mask.shape
    return reached[feather : feather + height, feather : feather + width] == 0


def cut_from(photo: np.ndarray, crop: np.ndarray, where: np.ndarray) -> bool:
    """Whether the pixels `where` of a crop are, exactly, those of some place in the photograph."""
    weight = np.repeat(where[..., None], 3, axis=2).astype(np.float32)
    if not where.any():
        return True
    distance = cv2.matchTemplate(photo.astype(np.float32), crop.astype(np.float32), cv2.TM_SQDIFF, mask=weight)
    height, width = crop.shape[:2]
    for place in np.argsort(distance, axis=None)[:5]:
        top, left = np.unravel_index(place, distance.shape)
        if np.array_equal(photo[top : top + height, left : left + width][where], crop[where]):
            return True
    return False


@pytest.fixture(params=["photos", "coco"])
def folder(request: pytest.FixtureRequest, photos: Path, coco: Path) -> tuple[Path, str]:
    return (photos if request.param == "photos" else coco), request.param


@pytest.mark.parametrize("kind", KINDS)
def test_whole_forgeries_differ_from_their_photograph_where_the_mask_says(folder: tuple[Path, str], kind: str) -> None:
    where, layout = folder
    rows = rendered(source(where, layout, samples_per_photo=3, forge=only(kind)))
    assert len(rows) >= 12
    for key, row in rows.items():
        image, mask = canonical(row)
        photo, recipe = photo_of(where, key), json.loads(row["recipe"])
        assert row["kind"] == kind
        assert 0.05 <= mask.mean() <= 0.35
        assert (row["forged_pixels"], row["forged_fraction"]) == (mask.sum(), pytest.approx(mask.mean()))
        outside = untouched(mask, recipe)
        assert np.array_equal(image[outside], photo[outside])
        assert (image != photo).any(axis=2)[mask == 1].mean() >= 0.5
        assert row["views"][0]["image"].startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", KINDS)
def test_crops_of_forgeries_are_crops_of_their_photograph_but_for_the_mask(folder: tuple[Path, str], kind: str) -> None:
    where, layout = folder
    rows = rendered(source(where, layout, samples_per_photo=3, crop=96, forge=only(kind)))
    assert len(rows) >= 12
    cut_by_border = 0
    for key, row in rows.items():
        image, mask = canonical(row)
        assert image.shape == (96, 96, 3) == (row["height"], row["width"], 3)
        assert 0.05 <= row["forged_fraction"] <= 0.35
        assert cut_from(photo_of(where, key), image, untouched(mask, json.loads(row["recipe"]), crop=True))
        cut_by_border += mask[[0, -1]].any() or mask[:, [0, -1]].any()
    assert cut_by_border > 0  # regions that always lie inside would teach a network to look at the middle


def test_authentic_crops_are_pieces_of_their_photographs(photos: Path) -> None:
    rows = rendered(source(photos, samples_per_photo=3, crop=64, forge=only("")))
    assert len(rows) == 18
    crops = {key: canonical(row)[0] for key, row in rows.items()}
    for key, crop in crops.items():
        assert cut_from(photo_of(photos, key), crop, np.ones((64, 64), bool))
        assert (rows[key]["kind"], rows[key]["forged_pixels"], rows[key]["recipe"]) == ("authentic", 0, "{}")
    assert len({crop.tobytes() for crop in crops.values()}) >= 17


def test_a_photograph_smaller_than_the_crop_is_used_whole(photos: Path) -> None:
    rows = rendered(source(photos, crop=224, samples_per_photo=2, forge=ForgeConfig()))
    assert {(row["height"], row["width"]) for row in rows.values()} == {(192, 224)}


def test_an_authentic_photograph_stays_the_file_it_is(coco: Path) -> None:
    rows = rendered(source(coco, "coco", forge=only("")), views=2)
    assert len(rows) == 6
    for key, row in rows.items():
        assert row["views"][0]["image"] == (coco / key.split("/", 1)[1].split("#")[0]).read_bytes()
        assert not canonical(row)[1].any()
        assert (row["jpeg_quality"], len(row["views"])) == (90, 3)


@pytest.mark.parametrize("crop", [None, 96])
def test_a_final_quality_is_that_of_authentic_and_forged_alike(coco: Path, crop: int | None) -> None:
    forge = ForgeConfig(splice=0.3, copy_move_outline=0, final_quality=(61, 83))
    rows = rendered(source(coco, "coco", crop=crop, samples_per_photo=8, forge=forge))
    qualities: dict[bool, list[int]] = {False: [], True: []}
    for row in rows.values():
        data = row["views"][0]["image"]
        quality = codecs.jpeg_quality(data)
        assert quality is not None
        assert json.loads(row["recipe"])["final_quality"] == quality
        # The table of that quality, from the library that wrote it; photographs have quality 90.
        same = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        assert same[same.index(b"\xff\xdb") :][:69] == data[data.index(b"\xff\xdb") :][:69]
        assert row["jpeg_quality"] == 90
        qualities[row["kind"] == "authentic"].append(quality)
    for found in qualities.values():
        assert 61 <= min(found) < max(found) <= 83
        assert abs(np.mean(found) - 72) < 5
    assert len(qualities[True]) > 5


@pytest.mark.parametrize("final_quality", [None, (10, 20)])
def test_hash_and_id_are_of_the_view_and_photo_hashes_of_the_photograph(
    coco: Path, final_quality: tuple[int, int] | None
) -> None:
    forge = ForgeConfig(splice=0.4, final_quality=final_quality)
    for key, row in rendered(source(coco, "coco", crop=64, samples_per_photo=4, forge=forge)).items():
        view, photo = row["views"][0], coco / key.split("/", 1)[1].split("#")[0]
        read = codecs.decode_image(photo.read_bytes(), key)
        assert (row["photo_hash"], row["photo_hash_fine"]) == (codecs.difference_hash(read), codecs.fine_hash(read))
        assert row["id"] == hashlib.sha256(view["image"] + view["mask"]).hexdigest()[:32]
        assert row["perceptual_hash"] == codecs.difference_hash(np.ascontiguousarray(canonical(row)[0]))


@pytest.mark.parametrize(
    ("layout", "forge", "decoded"),
    [
        ("photos", only(""), 1),
        ("photos", only("remove"), 1),
        ("photos", only("remove", final_quality=(60, 70)), 2),  # the photograph, and the JPEG file that was made of it
        ("pairs", ForgeConfig(), 2),  # image and mask
    ],
)
def test_nothing_is_decoded_that_was_just_encoded(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, forge: ForgeConfig, decoded: int
) -> None:
    cv2.imwrite(str(tmp_path / "m.png"), np.eye(192, 256, dtype=np.uint8) * 255)
    (tmp_path / "list.csv").write_text(f"image,mask\n{photos / 'chelsea.png'},m.png\n")
    of = source(photos if layout == "photos" else tmp_path / "list.csv", layout, forge=forge)
    sample = planned(of)[0]
    files = render.read_files(sample)
    decodings = []
    imdecode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *args: decodings.append(args) or imdecode(*args))
    render.render(sample, files, of, ViewsConfig(count=0), SEED)
    assert len(decodings) == decoded


def test_recipes_name_the_object_and_the_donor(coco: Path) -> None:
    found: Counter[Any] = Counter()
    for kind in KINDS:
        for key, row in rendered(source(coco, "coco", samples_per_photo=4, forge=only(kind))).items():
            recipe, own = json.loads(row["recipe"]), key.split("/", 1)[1].split("#")[0]
            assert ("donor" in recipe) == (kind == "splice")
            assert recipe.get("donor") != own
            assert recipe.get("donor") is None or (coco / recipe["donor"]).exists()
            known = "coffee" not in recipe.get("donor", own) and kind != "copy_move_outline"
            assert ("object" in recipe) <= known
            found[kind, recipe.get("object")] += 1
            if kind == "remove" and recipe.get("object") == 1:
                assert np.array_equal(cv2.erode(canonical(row)[1], None)[60, 25:116], np.ones(91))
    assert all(found[kind, number] for kind in ("splice", "copy_move", "remove") for number in (1, 2))
    assert all(number is None for kind, number in found if kind == "copy_move_outline")


@pytest.mark.parametrize("spoiled", ["image", "donor", "mask"])
def test_a_file_that_is_not_what_the_survey_saw_is_refused(photos: Path, tmp_path: Path, spoiled: str) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for file in photos.iterdir():
        (tmp_path / "images" / file.name).write_bytes(file.read_bytes())
        cv2.imwrite(str(tmp_path / "masks" / file.name), np.eye(192, 256, dtype=np.uint8) * 255)
    of = source(tmp_path, "pairs") if spoiled == "mask" else source(tmp_path / "images", forge=only("splice"))
    sample = planned(of)[0]
    changed = (sample.donor or {})["image"] if spoiled == "donor" else sample.image[spoiled]
    with Path(changed).open("ab") as file:
        file.write(b"\0")  # after the end: it decodes as before
    with pytest.raises(DataError, match=rf"{changed} was changed.*again") as error:
        render.render(sample, render.read_files(sample), of, ViewsConfig(count=0), SEED)
    assert error.value.reason == "changed"


@pytest.mark.parametrize(("turn", "quarters"), [(3, 2), (6, 3), (8, 1)])
def test_a_turned_photograph_is_forged_upright(photos: Path, tmp_path: Path, turn: int, quarters: int) -> None:
    """EXIF 6: the camera was turned so that the stored picture needs a quarter turn clockwise."""
    stored = cv2.imread(str(photos / "astronaut.png"))[..., ::-1]
    exif = Pillow.Exif()
    exif[0x0112] = turn
    (tmp_path / "turned").mkdir()
    Pillow.fromarray(stored).save(tmp_path / "turned" / "a.png", exif=exif)
    upright = np.rot90(stored, quarters)
    for kind in ("", "copy_move_outline"):
        (row,) = rendered(source(tmp_path / "turned", forge=only(kind))).values()
        assert (row["height"], row["width"]) == upright.shape[:2]
        view = row["views"][0]["image"]
        image = codecs.decode_image(view, "row")
        mask = codecs.decode_mask(row["views"][0]["mask"], "row")
        outside = untouched(mask, json.loads(row["recipe"])) if kind else mask == 0
        assert np.array_equal(image[outside], upright[outside])
        if not kind:
            assert view == (tmp_path / "turned" / "a.png").read_bytes()


def test_a_row_depends_on_nothing_but_its_sample(coco: Path) -> None:
    """In any order, and twice: the same bytes. With another seed, others."""
    of = source(coco, "coco", crop=64, samples_per_photo=3, forge=ForgeConfig(splice=0.4))
    stored = ViewsConfig(policy="release", count=2)

    def rows(samples: list[PlannedSample], seed: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for sample in samples:
            try:
                found[sample.key] = render.render(sample, render.read_files(sample), of, stored, seed).row
            except DataError as error:
                found[sample.key] = str(error)
        return found

    samples = planned(of)
    first = rows(samples, SEED)
    random.Random(1).shuffle(samples)
    assert rows(samples, SEED) == first
    other = rows(samples[:3], SEED + 1)
    assert all(other[key] != first[key] for key in other)


def test_given_pairs_keep_their_bytes_and_their_masks(photos: Path, tmp_path: Path) -> None:
    photo = cv2.imread(str(photos / "chelsea.png"))
    cv2.imwrite(str(tmp_path / "f.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, 77])
    white = np.full((192, 256), 255, np.uint8)
    white[30:90, 100:150] = 0
    cv2.imwrite(str(tmp_path / "m.png"), white)
    (tmp_path / "list.csv").write_text("image,mask,kind,mask_rule\nf.jpg,m.png,splice,dark\n")
    (row,) = rendered(source(tmp_path / "list.csv", "pairs", forge=only("", final_quality=(50, 60)))).values()
    assert (row["kind"], row["jpeg_quality"], row["recipe"], row["key"]) == ("splice", 77, "{}", "mine/f.jpg")
    assert row["views"][0]["image"] == (tmp_path / "f.jpg").read_bytes()
    assert np.array_equal(canonical(row)[1] * 255, 255 - white)
    assert row["forged_pixels"] == 60 * 50


@pytest.mark.parametrize("kind", ["authentic", "photo"])
def test_what_is_listed_as_authentic_has_no_forged_pixels(photos: Path, tmp_path: Path, kind: str) -> None:
    """A listing that contradicts itself: refused or without its mask, but never an authentic row with a forgery."""
    cv2.imwrite(str(tmp_path / "m.png"), np.eye(192, 256, dtype=np.uint8) * 255)
    (tmp_path / "list.csv").write_text(f"image,mask,kind\n{photos / 'chelsea.png'},m.png,{kind}\n")
    config = BuildConfig(sources=[source(tmp_path / "list.csv", "pairs", forge=only(""))])
    listed = listing.list_all(config, SEED)
    found = [survey.examine(item, survey.read_files(item), config.max_pixels) for item in listed.to_pylist()]
    decided = mask_rules.decide(listed, pa.Table.from_pylist(found, survey.SCHEMA))
    good, (reject,) = screening.screen(config, decided.listed, decided.survey)
    assert (len(good), reject["reason"]) == (0, "not_authentic")
