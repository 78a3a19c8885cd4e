"""Masks that belong to no image are named; where they are only named otherwise, the source is refused."""

from pathlib import Path

import pytest

from mpc_model.errors import UserError
from pipelines.config.build import SourceConfig
from pipelines.ingest import unused_masks
from pipelines.ingest.layouts import Item
from pipelines.ingest.listing import LAYOUTS


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def listed(folder: Path, layout: str = "pairs") -> list[Item]:
    return list(LAYOUTS[layout](SourceConfig(name="mine", layout=layout, location=str(folder))))


def test_a_mask_whose_image_is_lost_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"images/{n:03}.jpg" for n in range(12) if n != 7] + [f"masks/{n:03}.png" for n in range(12)]
    assert len(listed(files(tmp_path, *names))) == 11
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("source mine: masks that belong to no image, and are not used: 1 (masks/007.png)")


def test_of_many_three_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["images/one.jpg", "masks/one.png", *(f"masks/{n}.png" for n in range(5))]
    listed(files(tmp_path, *names))
    assert "not used: 5 (masks/0.png, masks/1.png, masks/2.png, ...)" in capsys.readouterr().err


def test_nothing_is_said_where_every_mask_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed(files(tmp_path, "images/one.jpg", "images/two.jpg", "masks/one.png"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}", "{}_gt"),
        ("{}", "{}_mask"),
        ("{}", "mask-{}"),
        ("IMG_{}", "img_{}"),
        ("{}_tampered", "{}"),
        ("a.b_{}", "a.b_{}.mask"),
        ("sub/{}", "{}"),
        ("{}", "sub/{}"),
    ],
)
def test_masks_that_are_named_otherwise_are_refused_with_the_remedy(image: str, mask: str, tmp_path: Path) -> None:
    numbers = [f"{n:03}" for n in range(12)]
    images, masks = ([name.format(n) for n in numbers] for name in (image, mask))
    folder = files(tmp_path, *(f"images/{n}.jpg" for n in images), *(f"masks/{n}.png" for n in masks))
    with pytest.raises(UserError) as caught:
        listed(folder)
    said = str(caught.value)
    assert "source mine: 12 of 12 images have no mask of the same name" in said
    assert said.count(" for images/") == 3
    assert f"masks/{masks[0]}.png for images/{images[0]}.jpg" in said
    assert "give each mask the name of its image, or name both in a listing" in said


def test_one_mask_that_is_named_otherwise_costs_only_its_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"images/{n}.jpg" for n in range(40)] + [f"masks/{n}.png" for n in range(39)]
    assert [item.name for item in listed(files(tmp_path, *names, "masks/39_gt.png")) if not item.mask] == ["images/39"]
    said = capsys.readouterr().err
    assert "not used: 1 (masks/39_gt.png); of similar names are masks/39_gt.png for images/39.jpg" in said


def test_masks_that_only_share_a_part_with_many_images_are_not_theirs() -> None:
    images = {f"photo_{n}": f"images/photo_{n}.jpg" for n in range(9)}
    unused_masks.check("mine", images, {"photo": "masks/photo.png", "readme": "masks/readme.png"})


def test_masks_of_a_public_set_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed(files(tmp_path, "image/1.tif", "image/1t.tif", "mask/1forged.tif", "mask/2forged.tif"), "coverage")
    assert "masks that belong to no image, and are not used: 1 (mask/2forged.tif)" in capsys.readouterr().err
