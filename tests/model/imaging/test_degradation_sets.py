"""Sets of degradations: what is in them, and how a list of names takes them up."""

from mpc_model.evaluation.robustness import curves
from mpc_model.imaging.degradation_sets import SETS, expanded
from mpc_model.imaging.degradations import degradation


def test_a_set_stands_for_its_names_and_each_name_comes_once() -> None:
    assert expanded(["light", "blur", "jpeg70"]) == ["jpeg70", "half_size", "blur"]
    assert expanded(["blur", "nothing"]) == ["blur", "nothing"]
    assert expanded([]) == []


def test_the_set_of_the_paper_has_four_curves_four_networks_and_four_chains() -> None:
    names = SETS["paper"]
    assert [degradation(name).name for name in names] == names
    found = curves(dict.fromkeys(names, 0.5), 0.5)
    assert [(curve.family, len(curve.names) - 1) for curve in found] == [
        ("jpeg", 4),
        ("blur_k", 4),
        ("noise", 4),
        ("resize", 4),
    ]
    assert len(names) == len(set(names)) == 4 * 4 + 4 + 4
