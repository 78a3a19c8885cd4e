"""F1 over parts of a test set: which image is in which slice, and which slices are listed."""

from dataclasses import replace

import pytest

from mpc_model.evaluation.slices import BY, Described, Sliced, slices_of

IMAGE = Described("splice", "columbia", 600, 800, 92, 0.03, (0.5, 0.5))


def test_an_image_has_a_value_of_each_property() -> None:
    assert slices_of(IMAGE) == dict(
        zip(BY, ("splice", "columbia", "1% to 5%", "0.25 to 1 MP", "JPEG 85 to 94", "centre"), strict=True)
    )


@pytest.mark.parametrize(
    ("changed", "by", "value"),
    [
        ({"quality": None}, "file", "not JPEG"),
        ({"quality": 70}, "file", "JPEG 70 to 84"),
        ({"quality": 100}, "file", "JPEG 95 or more"),
        ({"forged_fraction": 0.01}, "forged area", "1% to 5%"),
        ({"forged_fraction": 1.0}, "forged area", "40% or more"),
        ({"height": 4000, "width": 3000}, "image size", "4 MP or more"),
        ({"centre": (1.0, 0.0)}, "position", "top right"),
        ({"centre": (0.2, 0.5)}, "position", "left"),
        ({"centre": (0.4, 0.9)}, "position", "bottom"),
    ],
)
def test_a_value_follows_from_the_image(changed: dict, by: str, value: str) -> None:
    assert slices_of(replace(IMAGE, **changed))[by] == value


def test_an_image_without_forged_pixels_has_no_position() -> None:
    assert "position" not in slices_of(replace(IMAGE, centre=None))


def sliced(f1: dict[str, list[float | None]]) -> Sliced:
    """Images of each kind with these values, added one by one."""
    found = Sliced(replicates=50)
    for kind, values in f1.items():
        for number, value in enumerate(values):
            found.add([f"{kind}-{number}"], [slices_of(replace(IMAGE, kind=kind))], {"f1": [value]})
    return found


def test_slices_come_worst_first_with_count_and_interval() -> None:
    found = sliced({"splice": [0.9, 0.7], "removal": [0.1, 0.2, 0.3], "copy_move": [0.5] * 3}).result(2)
    assert [(one.by, one.value, one.f1.images) for one in found] == [
        ("kind", "removal", 3),
        ("kind", "copy_move", 3),
        ("kind", "splice", 2),
    ]
    assert [one.f1.value for one in found] == pytest.approx([0.2, 0.5, 0.8])
    assert found[0].f1.low < 0.2 < found[0].f1.high


def test_few_images_are_not_ranked_and_what_divides_nothing_is_left_out() -> None:
    assert [one.value for one in sliced({"splice": [0.9] * 4, "removal": [0.1] * 3}).result(4)] == ["splice"]
    assert sliced({"splice": [0.9] * 4, "authentic": [None] * 4}).result(1) == []
    assert Sliced().result() == []
