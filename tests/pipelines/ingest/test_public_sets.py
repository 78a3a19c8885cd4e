"""Public sets: small trees of real files, named as the archives name them, and the items written out by hand."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from mpc_model.errors import DataError, UserError
from pipelines.config import recipe
from pipelines.config.build import SourceConfig
from pipelines.dataset.schema import AUTHENTIC
from pipelines.ingest.layouts import LAYOUTS, Item
from pipelines.ingest.public_sets import SETS


class Listed(NamedTuple):
    """What the tests compare of an item; locations as paths below the set's folder."""

    name: str
    kind: str
    mask: str | None = None
    group: str = ""
    mask_rule: str = "bright"


# Files that must be ignored are marked with a leading "-".
TREES: dict[str, tuple[list[str], list[Listed]]] = {
    "casia1": (
        [
            "Au/Au_ani_0001.jpg",
            "Au/Au_nat_0078.jpg",
            "Modified Tp/Tp/CM/Sp_S_CNN_A_nat0078_nat0078_0004.jpg",
            "Modified Tp/Tp/Sp/Sp_D_NRN_A_cha0011_sec0011_0542.jpg",
            "Modified Tp/Tp/Sp/Sp_D_CNN_A_art0024_ani0032_0268.jpg",
            "-Original Tp/Tp/Sp/Sp_D_CNN_A_art0024_ani0032_0268.jpg",
            "-Original Tp/Sp/Sp_D_CNN_A_art0024_ani0032_0268.jpg",
            "CASIA 1.0 groundtruth/CM/Sp_S_CNN_A_nat0078_nat0078_0004_gt.png",
            "CASIA 1.0 groundtruth/Sp/Sp_D_CNN_A_art0024_ani0032_0268_gt.png",
            "-Samples/Sp/Sp_D_CNN_A_art0024_ani0032_0268_combine.png",
        ],
        [
            Listed("Au/Au_ani_0001.jpg", "authentic", group="ani0001"),
            Listed("Au/Au_nat_0078.jpg", "authentic", group="nat0078"),
            Listed(
                "Modified Tp/Tp/CM/Sp_S_CNN_A_nat0078_nat0078_0004.jpg",
                "copy_move",
                "CASIA 1.0 groundtruth/CM/Sp_S_CNN_A_nat0078_nat0078_0004_gt.png",
                "nat0078",
            ),
            Listed("Modified Tp/Tp/Sp/Sp_D_NRN_A_cha0011_sec0011_0542.jpg", "splice", group="cha0011"),
            Listed(
                "Modified Tp/Tp/Sp/Sp_D_CNN_A_art0024_ani0032_0268.jpg",
                "splice",
                "CASIA 1.0 groundtruth/Sp/Sp_D_CNN_A_art0024_ani0032_0268_gt.png",
                "art0024",
            ),
        ],
    ),
    "casia2": (
        [
            "CASIA2/Au/Au_ani_00018.jpg",
            "CASIA2/Tp/Tp_D_CND_M_N_ani00018_sec00096_00138.tif",
            "CASIA2/Tp/Tp_S_NRN_S_O_sec00036_sec00036_00764.tif",
            "CASIA2/Tp/Tp_S_unnumbered.jpg",
            "CASIA2/CASIA 2 Groundtruth/Tp_D_CND_M_N_ani00018_sec00096_00138_gt.png",
            "CASIA2/CASIA 2 Groundtruth/Tp_S_NRN_S_O_sec00036_sec00036_00764_gt.png",
            "CASIA2/CASIA 2 Groundtruth/Tp_S_unnumbered_gt.png",
            "-CASIA2/jpg/Tp_D_CND_M_N_ani00018_sec00096_00138.jpg",
        ],
        [
            Listed("CASIA2/Au/Au_ani_00018.jpg", "authentic", group="ani00018"),
            Listed(
                "CASIA2/Tp/Tp_D_CND_M_N_ani00018_sec00096_00138.tif",
                "splice",
                "CASIA2/CASIA 2 Groundtruth/Tp_D_CND_M_N_ani00018_sec00096_00138_gt.png",
                "ani00018",
            ),
            Listed(
                "CASIA2/Tp/Tp_S_NRN_S_O_sec00036_sec00036_00764.tif",
                "copy_move",
                "CASIA2/CASIA 2 Groundtruth/Tp_S_NRN_S_O_sec00036_sec00036_00764_gt.png",
                "sec00036",
            ),
            Listed("CASIA2/Tp/Tp_S_unnumbered.jpg", "copy_move", "CASIA2/CASIA 2 Groundtruth/Tp_S_unnumbered_gt.png"),
        ],
    ),
    "columbia": (
        [
            "4cam_auth/canong3_02_sub_01.tif",
            "4cam_auth/canong3_02_sub_09.tif",
            "4cam_auth/kodakdcs330_03_sub_01.tif",
            "4cam_splc/canong3_canonxt_sub_01.tif",
            "4cam_splc/canong3_canonxt_sub_02.tif",
            "4cam_splc/edgemask/canong3_canonxt_sub_01_edgemask.jpg",
            "-4cam_splc/edgemask/canong3_canonxt_sub_01_edgemask_3.jpg",
            "-4cam_splc/edgemask/canong3_canonxt_sub_02_edgemask_3.jpg",
        ],
        [
            Listed("4cam_auth/canong3_02_sub_01.tif", "authentic", group="canong3_02"),
            Listed("4cam_auth/canong3_02_sub_09.tif", "authentic", group="canong3_02"),
            Listed("4cam_auth/kodakdcs330_03_sub_01.tif", "authentic", group="kodakdcs330_03"),
            Listed(
                "4cam_splc/canong3_canonxt_sub_01.tif",
                "splice",
                "4cam_splc/edgemask/canong3_canonxt_sub_01_edgemask.jpg",
                mask_rule="green",
            ),
            Listed("4cam_splc/canong3_canonxt_sub_02.tif", "splice", mask_rule="green"),
        ],
    ),
    "coverage": (
        [
            "image/1.tif",
            "image/1t.tif",
            "image/11t.tif",
            "-mask/1copy.tif",
            "mask/1forged.tif",
            "mask/11forged.tif",
            "-mask/1paste.tif",
        ],
        [
            Listed("image/1.tif", "authentic", group="1"),
            Listed("image/1t.tif", "copy_move", "mask/1forged.tif", "1"),
            Listed("image/11t.tif", "copy_move", "mask/11forged.tif", "11"),
        ],
    ),
    "dso1": (
        [
            "tifs-database/DSO-1/normal-01.png",
            "tifs-database/DSO-1/splicing-01.png",
            "tifs-database/DSO-1/splicing-100.png",
            "tifs-database/DSO-1-Fake-Images-Masks/splicing-01.png",
            "-tifs-database/DSI-1/splicing-01.png",
        ],
        [
            Listed("tifs-database/DSO-1/normal-01.png", "authentic"),
            Listed(
                "tifs-database/DSO-1/splicing-01.png",
                "splice",
                "tifs-database/DSO-1-Fake-Images-Masks/splicing-01.png",
                mask_rule="dark",
            ),
            Listed("tifs-database/DSO-1/splicing-100.png", "splice", mask_rule="dark"),
        ],
    ),
    "imd2020": (
        [
            "1a1ogs/1a1ogs_orig.jpg",
            "1a1ogs/c8tf5mq_0.png",
            "1a1ogs/c8tf5mq_0_mask.png",
            "z22/00047_fake_02.jpg",
            "z22/00047_fake_02_mask.png",
            "z28/00065_fake.jpg",
            "z28/00047_fake_02_mask.png",
        ],
        [
            Listed("1a1ogs/1a1ogs_orig.jpg", "authentic", group="1a1ogs"),
            Listed("1a1ogs/c8tf5mq_0.png", "forged", "1a1ogs/c8tf5mq_0_mask.png", "1a1ogs"),
            Listed("z22/00047_fake_02.jpg", "forged", "z22/00047_fake_02_mask.png", "z22"),
            Listed("z28/00065_fake.jpg", "forged", group="z28"),
        ],
    ),
    "korus": (
        [
            "data-images/Canon_60D/pristine/DPP0012.TIF",
            "data-images/Canon_60D/tampered-realistic/DPP0012.TIF",
            "data-images/Canon_60D/ground-truth/DPP0012.PNG",
            "data-images/Nikon_D90/tampered-realistic/DPP0012.TIF",
        ],
        [
            Listed("data-images/Canon_60D/pristine/DPP0012.TIF", "authentic", group="canon_60d/dpp0012"),
            Listed(
                "data-images/Canon_60D/tampered-realistic/DPP0012.TIF",
                "forged",
                "data-images/Canon_60D/ground-truth/DPP0012.PNG",
                "canon_60d/dpp0012",
                "nonzero",
            ),
            Listed(
                "data-images/Nikon_D90/tampered-realistic/DPP0012.TIF",
                "forged",
                group="nikon_d90/dpp0012",
                mask_rule="nonzero",
            ),
        ],
    ),
    "in_the_wild": (
        ["label_in_wild/images/2251.jpg", "label_in_wild/images/im10_edit1.jpg", "label_in_wild/masks/2251.png"],
        [
            Listed("label_in_wild/images/2251.jpg", "splice", "label_in_wild/masks/2251.png"),
            Listed("label_in_wild/images/im10_edit1.jpg", "splice"),
        ],
    ),
    "cocoglide": (
        [
            "real/dining table_114871.png",
            "fake/glide_inpainting_val2017_114871_up.png",
            "fake/glide_inpainting_val2017_4871_up.png",
            "mask/dining table_114871_mask.png",
        ],
        [
            Listed("real/dining table_114871.png", "authentic", group="114871"),
            Listed(
                "fake/glide_inpainting_val2017_114871_up.png",
                "inpaint",
                "mask/dining table_114871_mask.png",
                "114871",
            ),
            Listed("fake/glide_inpainting_val2017_4871_up.png", "inpaint", group="4871"),
        ],
    ),
    "misd": (
        [
            "Dataset/Au/Au_ani_00010.jpg",
            "Dataset/Sp/Sp_D_ani_00010_cha_00022_sec_00051_7.png",
            "Dataset/Sp/Sp_D_cha_00022_art_00004_8.png",
            "Dataset/Sp/Sp_D_cha_00022_art_00004_9.png",
            "Dataset/Ground Truth Masks/Sp_D_ani_00010_cha_00022_sec_00051_7_gt.png",
            "-Dataset/Ground Truth Masks/Sp_D_cha_00022_art_00004_8/images/Sp_D_cha_00022_art_00004_8.png",
            "Dataset/Ground Truth Masks/Sp_D_cha_00022_art_00004_8/masks/mask.png",
        ],
        [
            Listed("Dataset/Au/Au_ani_00010.jpg", "authentic", group="ani00010"),
            Listed(
                "Dataset/Sp/Sp_D_ani_00010_cha_00022_sec_00051_7.png",
                "splice",
                "Dataset/Ground Truth Masks/Sp_D_ani_00010_cha_00022_sec_00051_7_gt.png",
                "ani00010",
            ),
            Listed(
                "Dataset/Sp/Sp_D_cha_00022_art_00004_8.png",
                "splice",
                "Dataset/Ground Truth Masks/Sp_D_cha_00022_art_00004_8/masks/mask.png",
                "cha00022",
            ),
            Listed("Dataset/Sp/Sp_D_cha_00022_art_00004_9.png", "splice", group="cha00022"),
        ],
    ),
    "ffpp": (
        [
            "original_sequences/youtube/c23/frames/000/0000.png",
            "original_sequences/youtube/c23/frames/003/0000.png",
            "original_sequences/youtube/c23/frames/999/0000.png",
            "-original_sequences/actors/c23/frames/01__kitchen/0000.png",
            "manipulated_sequences/Deepfakes/c23/frames/000_003/0000.png",
            "manipulated_sequences/Deepfakes/c23/frames/003_000/0000.png",
            "manipulated_sequences/Deepfakes/c23/frames/003_000/0001.png",
            "manipulated_sequences/Deepfakes/masks/frames/000_003/0000.png",
            "manipulated_sequences/Deepfakes/masks/frames/003_000/0000.png",
            "manipulated_sequences/Face2Face/c40/images/000_003/0000.png",
            "manipulated_sequences/Face2Face/c40/masks/000_003/0000.png",
        ],
        [
            Listed("original_sequences/youtube/c23/frames/000/0000.png", "authentic", group="000_003"),
            Listed("original_sequences/youtube/c23/frames/003/0000.png", "authentic", group="000_003"),
            Listed("original_sequences/youtube/c23/frames/999/0000.png", "authentic", group="999"),
            Listed(
                "manipulated_sequences/Deepfakes/c23/frames/000_003/0000.png",
                "deepfakes",
                "manipulated_sequences/Deepfakes/masks/frames/000_003/0000.png",
                "000_003",
            ),
            Listed(
                "manipulated_sequences/Deepfakes/c23/frames/003_000/0000.png",
                "deepfakes",
                "manipulated_sequences/Deepfakes/masks/frames/003_000/0000.png",
                "000_003",
            ),
            Listed("manipulated_sequences/Deepfakes/c23/frames/003_000/0001.png", "deepfakes", group="000_003"),
            Listed(
                "manipulated_sequences/Face2Face/c40/images/000_003/0000.png",
                "face2face",
                "manipulated_sequences/Face2Face/c40/masks/000_003/0000.png",
                "000_003",
            ),
        ],
    ),
    "nist16": (
        [
            "NC2016_Test0613/probe/NC2016_7691.jpg",
            "NC2016_Test0613/probe/NC2016_6607.jpg",
            "NC2016_Test0613/probe/NC2016_6438.jpg",
            "NC2016_Test0613/probe/NC2016_0001.jpg",
            "-NC2016_Test0613/probe/NC2016_9999.jpg",
            "-NC2016_Test0613/world/NC2016_6267.jpg",
            "NC2016_Test0613/reference/manipulation/mask/NC2016_2490.png",
            "NC2016_Test0613/reference/manipulation/mask/NC2016_1253.png",
        ],
        [
            Listed(
                "NC2016_Test0613/probe/NC2016_7691.jpg",
                "splice",
                "NC2016_Test0613/reference/manipulation/mask/NC2016_2490.png",
                "world/nc2016_6267.jpg",
                "dark",
            ),
            Listed("NC2016_Test0613/probe/NC2016_6607.jpg", "remove", None, "world/nc2016_6267.jpg", "dark"),
            Listed(
                "NC2016_Test0613/probe/NC2016_6438.jpg",
                "copy_move",
                "NC2016_Test0613/reference/manipulation/mask/NC2016_1253.png",
                "world/nc2016_0005.jpg",
                "dark",
            ),
            Listed("NC2016_Test0613/probe/NC2016_0001.jpg", "authentic"),
            Listed("NC2016_Test0613/probe/NC2016_0002.jpg", "authentic"),
        ],
    ),
}
NIST_TABLE = """\
TaskID|ProbeFileID|ProbeFileName|ProbeMaskFileName|IsTarget|IsManipulationTypeRemoval|IsManipulationTypeSplice|\
IsManipulationTypeCopyClone|BaseFileName
manipulation|NC2016_7691|probe/NC2016_7691.jpg|reference/manipulation/mask/NC2016_2490.png|Y|N|Y|N|world/NC2016_6267.jpg
manipulation|NC2016_6607|probe/NC2016_6607.jpg|reference/manipulation/mask/NC2016_3891.png|Y|Y|N|N|world/NC2016_6267.jpg
manipulation|NC2016_6438|probe/NC2016_6438.jpg|reference/manipulation/mask/NC2016_1253.png|Y|N|N|Y|world/NC2016_0005.jpg
manipulation|NC2016_0001|probe/NC2016_0001.jpg||N|N|N|N|
manipulation|NC2016_0002|probe/NC2016_0002.jpg||N|N|N|N|
"""
NIST_FILE = "NC2016_Test0613/reference/manipulation/NC2016-manipulation-ref.csv"


def unpack(layout: str, folder: Path, upper: bool = False) -> Path:
    """The tree of a set below `folder`, each file an image of its own; `upper` shouts the suffixes."""
    for number, name in enumerate(TREES[layout][0]):
        path = folder / name.removeprefix("-")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = np.full((4, 4, 3), number, np.uint8)
        path.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())
        if upper:
            path.rename(path.with_suffix(path.suffix.upper()))
    if layout == "nist16":
        (folder / NIST_FILE).write_text(NIST_TABLE)
    return folder


def items(layout: str, folder: Path) -> list[Item]:
    return list(LAYOUTS[layout](SourceConfig(name="the_set", layout=layout, location=str(folder))))


def seen(found: list[Item], folder: Path) -> list[Listed]:
    def below(location: str | None) -> str | None:
        return location and str(Path(location).relative_to(folder))

    assert all(below(item.image) == item.name for item in found)
    rules = (item.mask_rule if item.kind != "authentic" else "bright" for item in found)  # those have no mask to read
    return [
        Listed(item.name, item.kind, below(item.mask), item.group, rule)
        for item, rule in zip(found, rules, strict=True)
    ]


def test_every_set_of_the_table_is_tested_and_registered() -> None:
    assert {*SETS, "ffpp", "nist16"} == set(TREES) <= set(LAYOUTS)


@pytest.mark.parametrize("layout", TREES)
def test_items_of_a_set(layout: str, tmp_path: Path) -> None:
    found = items(layout, unpack(layout, tmp_path))
    assert sorted(seen(found, tmp_path), key=lambda item: item.name) == sorted(TREES[layout][1])
    for item in found:
        for location, stamp in ((item.image, item.image_stamp), (item.mask, item.mask_stamp)):
            there = location is not None and Path(location).exists()
            assert stamp.size == (Path(str(location)).stat().st_size if there else 0)


@pytest.mark.parametrize("layout", TREES)
def test_masks_exist_and_belong_to_forged_items(layout: str, tmp_path: Path) -> None:
    for item in items(layout, unpack(layout, tmp_path)):
        assert item.mask is None or (Path(item.mask).is_file() and item.kind != "authentic")


@pytest.mark.parametrize("layout", TREES)
def test_names_and_groups_do_not_change_when_the_folder_moves(layout: str, tmp_path: Path) -> None:
    before = seen(items(layout, unpack(layout, tmp_path / "here")), tmp_path / "here")
    (tmp_path / "moved to").mkdir()
    shutil.move(tmp_path / "here", tmp_path / "moved to" / "there")
    assert seen(items(layout, tmp_path / "moved to" / "there"), tmp_path / "moved to" / "there") == before


@pytest.mark.parametrize("layout", TREES)
def test_folders_above_the_set_are_allowed(layout: str, tmp_path: Path) -> None:
    before = seen(items(layout, unpack(layout, tmp_path / "sets" / "it")), tmp_path / "sets" / "it")
    after = seen(items(layout, tmp_path), tmp_path)
    assert [item.name for item in after] == [f"sets/it/{item.name}" for item in before]
    assert [(item.kind, item.group, item.mask is None) for item in after] == [
        (item.kind, item.group, item.mask is None) for item in before
    ]


@pytest.mark.parametrize("layout", TREES)
def test_the_case_of_suffixes_does_not_matter(layout: str, tmp_path: Path) -> None:
    found = items(layout, unpack(layout, tmp_path, upper=True))
    wanted = TREES[layout][1]
    assert sorted((i.name.lower(), i.kind, i.group, i.mask is None) for i in found) == sorted(
        (i.name.lower(), i.kind, i.group, i.mask is None) for i in wanted
    )


@pytest.mark.parametrize("layout", TREES)
def test_a_folder_of_something_else_is_refused(layout: str, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(cv2.imencode(".jpg", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    with pytest.raises(UserError, match=f"source the_set: .*{tmp_path}.*layout {layout}") as error:
        items(layout, tmp_path)
    expected = (
        SETS[layout].expects if layout in SETS else {"ffpp": "manipulated_sequences", "nist16": "ref.csv"}[layout]
    )
    assert expected in str(error.value)


@pytest.mark.parametrize("layout", TREES)
def test_an_empty_and_a_missing_folder_are_refused(layout: str, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="source the_set"):
            items(layout, folder)


@pytest.mark.parametrize("layout", sorted(set(TREES) - {"nist16"}))
def test_what_the_error_shows_is_what_the_patterns_read(layout: str, tmp_path: Path) -> None:
    """Naming.expects is prose: every image and mask it shows must be one to the layout."""
    from pipelines.ingest.public_sets import FFPP, _path_pattern

    naming = SETS.get(layout, FFPP)
    for shown in naming.expects.replace("masks ", "").replace(" or ...", ", Ground Truth Masks").split(", "):
        name = shown.replace("*", "CNN_A_ani0001_ani0002_1")
        assert any(_path_pattern(pattern).fullmatch(name) for pattern in (*naming.images.values(), naming.mask)), shown


def test_the_medium_recipe_draws_its_share_of_the_large_one_and_forged_images_alone(tmp_path: Path) -> None:
    medium, large = (recipe.load(f"paper_{name}").build.sources for name in ("medium", "large"))
    listed = dict(zip((source.name for source in large), (199_999, 199_429, 199_443, 5_123, 2_010), strict=True))
    total = sum(listed[source.name] * source.repeat for source in large)
    assert total == 843_991
    drawn = {source.name: (source.limit or 0) * source.repeat for source in medium}
    assert sum(drawn.values()) == 60_000
    for source in large:
        assert drawn[source.name] == pytest.approx(60_000 * listed[source.name] * source.repeat / total, abs=1)
    for source in medium:
        assert (source.limit or 0) <= listed[source.name]
        if source.only:
            unpack(source.layout, folder := tmp_path / source.name)
            chosen = [item for item in items(source.layout, folder) if re.search(source.only, item.name)]
            assert len(chosen) == len([item for item in TREES[source.layout][1] if item.kind != AUTHENTIC]) > 0
            assert AUTHENTIC not in {item.kind for item in chosen}


def test_two_masks_of_one_image_are_named_not_chosen_from(tmp_path: Path) -> None:
    unpack("casia2", tmp_path)
    masks = tmp_path / "CASIA2" / "CASIA 2 Groundtruth"
    (tmp_path / "corrected").mkdir()
    shutil.copy(masks / "Tp_S_unnumbered_gt.png", tmp_path / "corrected" / "Tp_S_unnumbered_gt.png")
    with pytest.raises(UserError, match=r"2 masks for CASIA2/Tp/Tp_S_unnumbered\.jpg: .*corrected/Tp_S_unnumbered_gt"):
        items("casia2", tmp_path)


def test_misd_has_a_mask_for_each_object(tmp_path: Path) -> None:
    unpack("misd", tmp_path)
    masks = tmp_path / "Dataset/Ground Truth Masks/Sp_D_cha_00022_art_00004_8/masks"
    shutil.copy(masks / "mask.png", masks / "second.png")
    (found,) = [item.mask for item in items("misd", tmp_path) if item.name.endswith("Sp_D_cha_00022_art_00004_8.png")]
    assert found is not None
    assert found.split("\n") == [str(masks / "mask.png"), str(masks / "second.png")]


def test_a_table_of_nist_without_a_column_is_refused(tmp_path: Path) -> None:
    unpack("nist16", tmp_path)
    (tmp_path / NIST_FILE).write_text(NIST_TABLE.replace("|BaseFileName", "|Base"))
    with pytest.raises(DataError, match="BaseFileName"):
        items("nist16", tmp_path)


def test_a_rule_that_a_source_names_wins_over_that_of_the_set(tmp_path: Path) -> None:
    for layout in ("dso1", "nist16"):
        location = str(unpack(layout, tmp_path / layout))
        source = SourceConfig(name="set", layout=layout, location=location, mask_rule="above_3")
        assert {item.mask_rule for item in LAYOUTS[layout](source) if item.mask} == {"above_3"}
