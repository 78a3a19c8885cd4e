"""The published table: its values as the article has them, and the names by which a test set is known."""

import pytest

from mpc_model.evaluation import published
from mpc_model.evaluation.published import TABLE, Published


def test_values_are_those_of_the_article() -> None:
    assert Published("TruFor", "large", "DSO", 0.91, 0.865) in TABLE
    assert Published("MPC", "large", "Columbia", 0.945, 0.936) in TABLE
    assert Published("MPC", "small", "Coverage", 0.41, 0.302) in TABLE
    assert len(TABLE) == len(set(TABLE)) == 3 * 10 + 8
    assert all(0 < one.iou < one.f1 < 1 for one in TABLE)


@pytest.mark.parametrize(
    ("names", "of_set"),
    [
        (["CASIA v1"], "CASIA v1"),
        (["mine", "casia1"], "CASIA v1"),
        (["DSO-1"], "DSO"),
        (["nist16"], "NIST16"),
        (["in_the_wild"], "Wild"),
        (["casia2"], None),
        (["wildlife"], None),
        ([], None),
    ],
)
def test_a_set_is_known_by_its_name_or_layout(names: list[str], of_set: str | None) -> None:
    assert published.test_set(names) == of_set
    assert of_set is None or {one.method for one in published.rows(of_set)} >= {"MPC"}
