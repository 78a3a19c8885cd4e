"""Names of maps: the path of the image, unless no file can have it, or another map has it."""

import re

import pytest

from pipelines.inference.map_names import map_location, map_names, overlay_location

SOURCE, OUTPUT = "/in", "/out"


def names(*paths: str, output: str = OUTPUT, is_folded: bool = False) -> list[str]:
    return list(map_names([f"{SOURCE}/{path}" for path in paths], SOURCE, output, is_folded))


def test_a_name_is_the_path_below_the_input() -> None:
    assert names("a.png", "a.jpg", "A.png", "deep/Icon\\x0d.png") == ["a.png", "a.jpg", "A.png", "deep/Icon\\x0d.png"]
    assert list(map_names(["/in/one.png"], "/in/one.png", OUTPUT, False)) == ["one.png"]
    assert map_location(OUTPUT, "deep/a.png") == "/out/maps/deep/a.png.png"
    assert overlay_location(OUTPUT, "deep/a.png") == "/out/overlays/deep/a.png.jpg"


@pytest.mark.parametrize(
    "path",
    [
        "n" * 252,
        "\u00fc" * 126,
        f"{'n' * 252}/a.png",
        "d/" * 2048 + "a.png",
        "../../etc/a.png",
        "/a.png",
        "deep//a.png",
        "deep/./a.png",
    ],
)
def test_a_path_that_no_file_can_have_or_that_leaves_the_folder_gets_a_digest(path: str) -> None:
    (name,) = names(path)
    assert re.fullmatch(r"[^/]{1,40}~[0-9a-f]{12}", name)
    assert names(path, "b.png") == [name, "b.png"]
    assert names(path[:-1] + "x") != [name]


def test_the_longest_names_that_fit_are_kept() -> None:
    assert names("n" * 251) == ["n" * 251]
    key = "/".join(["d" * 200] * 5)
    assert names(key, output="s3://b/out") == [key]
    assert names(f"{key}/{key}", output="s3://b/out") != [f"{key}/{key}"]


def test_an_image_and_a_folder_that_would_be_one_file_are_told_apart() -> None:
    first, second, third = names("a.png", "a.png.png/b.png", "c.png")
    assert first.startswith("a.png~")
    assert (second, third) == ("a.png.png/b.png", "c.png")


def test_where_case_does_not_count_maps_of_one_name_are_told_apart() -> None:
    alike = ["a.png", "A.png", "caf\u00e9.png", "cafe\u0301.png"]
    assert names(*alike) == alike
    *found, other = names(*alike, "b.png", is_folded=True)
    assert other == "b.png"
    assert len({name.casefold() for name in found}) == 4
    assert all("~" in name for name in found)


def test_images_that_a_listing_names_elsewhere_have_their_whole_location() -> None:
    listed = ["/in/a.png", "/data/a.png", "s3://b/a.png", "/in/@file/data/a.png", "/in/@eaDir/a.png"]
    *first, twice, own = map_names(listed, "/in", "/out", is_folded=False)
    assert first == ["a.png", "@file/data/a.png", "@s3/b/a.png"]
    assert twice.startswith("a.png~")
    assert own.startswith("a.png~")
    assert names("@eaDir/a.png") == ["@eaDir/a.png"]
