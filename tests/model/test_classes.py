"""How many classes there may be, and what they are called."""

import pytest

from mpc_model.classes import check_classes, class_labels
from mpc_model.errors import UserError


@pytest.mark.parametrize(
    ("classes", "names", "said"),
    [
        (0, (), "classes is 0: give a whole number from 1 to 255"),
        (256, (), "classes is 256"),
        (True, (), "classes is True"),
        (2.0, (), r"classes is 2\.0"),
        (1, ("forged",), "class_names are for several classes"),
        (3, ("a", "b"), "class_names are 2, but classes is 3"),
        (2, ("a", "a"), "class_names has a name twice"),
        (2, ("a", ""), "a class is named ''"),
        (2, ("a", "b\n"), r"a class is named 'b\\n'"),
        (2, ("a", "b" * 201), "1 to 200 characters"),
        (2, ("a", 3), "a class is named 3"),
    ],
)
def test_classes_that_cannot_be_are_refused(classes: object, names: tuple[object, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_classes(classes, names)


def test_classes_are_called_by_their_names_or_numbers() -> None:
    for classes, names in ((1, ()), (2, ()), (255, ()), (3, ("sky", "road", "tree"))):
        check_classes(classes, names)
    assert class_labels(1, ()) == ("authentic", "forged")
    assert class_labels(3, ()) == ("0", "1", "2")
    assert class_labels(3, ("sky", "road", "tree")) == ("sky", "road", "tree")
