"""A registry finds what was added, and says which names exist where one does not."""

import pytest

from mpc_model.errors import UserError
from mpc_model.registry import Registry


def shapes() -> Registry[int]:
    registry: Registry[int] = Registry("shape")
    registry.add("square")(4)
    registry.add("hexagon")(6)
    return registry


def test_what_was_added_is_found_by_its_name_and_listed_in_order() -> None:
    assert shapes()["hexagon"] == 6
    assert list(shapes()) == ["hexagon", "square"]


@pytest.mark.parametrize("look_up", [Registry.__getitem__, Registry.require])
def test_an_unknown_name_is_refused_with_the_nearest_and_all_names(look_up: object) -> None:
    assert callable(look_up)
    with pytest.raises(
        UserError, match=r"unknown shape 'sqare' \(did you mean 'square'\?\); choose one of: hexagon, square"
    ):
        look_up(shapes(), "sqare")
    with pytest.raises(UserError, match=r"shape must be a name, not \['square'\]"):
        look_up(shapes(), ["square"])


def test_a_registered_name_can_be_required() -> None:
    shapes().require("square")


def test_a_name_is_taken_once() -> None:
    registry = shapes()
    with pytest.raises(ValueError, match="'square' is already registered"):
        registry.add("square")(5)
