"""A model and a dataset of other classes do not go together."""

from types import SimpleNamespace
from typing import Any

import pytest

from mpc_model.errors import UserError
from pipelines.dataset import classes


def manifest(*names: str) -> Any:
    return SimpleNamespace(indexed=bool(names), class_names=list(names) or ["authentic", "forged"])


@pytest.mark.parametrize(
    ("names", "count", "own", "said"),
    [
        (("sky", "road", "tree"), 1, (), "/data has 3 classes .sky, road, tree., but m gives the probability"),
        (("sky", "road"), 1, (), "the probability of forgery alone; use another"),
        (("sky", "road", "tree"), 4, (), "but m has 4"),
        ((), 3, (), r"/data has 2 classes \(authentic, forged\), but m has 3"),
        (("sky", "road"), 2, ("road", "sky"), "but those of m are road, sky"),
    ],
)
def test_what_does_not_fit_is_refused(names: tuple[str, ...], count: int, own: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        classes.require("/data", manifest(*names), count, own, "m", "use another")


@pytest.mark.parametrize(
    ("names", "count", "own"),
    [((), 1, ()), ((), 2, ()), ((), 2, ("authentic", "forged")), (("sky", "road"), 2, ()), (("a", "b"), 2, ("a", "b"))],
)
def test_what_fits_is_taken(names: tuple[str, ...], count: int, own: tuple[str, ...]) -> None:
    classes.require("/data", manifest(*names), count, own, "m", "use another")
