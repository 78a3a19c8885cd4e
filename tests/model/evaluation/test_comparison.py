"""Two models on the same images: the paired difference, its slices, and the images where they differ most."""

import numpy as np
import pytest

from mpc_model.evaluation.comparison import MOST_APART, Compared, Comparison

COUNT = 120
IDS = [f"image-{number}" for number in range(COUNT)]
KINDS = ["splice" if number % 3 else "removal" for number in range(COUNT)]


def compared(first: np.ndarray, second: np.ndarray) -> Compared:
    comparison = Comparison(["f1", "iou"], replicates=200)
    for start in range(0, COUNT, 50):
        part = slice(start, start + 50)
        of_models = ({"f1": one[part].tolist(), "iou": (one[part] / 2).tolist()} for one in (first, second))
        comparison.add(IDS[part], [{"kind": kind} for kind in KINDS[part]], *of_models)
    return comparison.result()


def scores() -> tuple[np.ndarray, np.ndarray]:
    """Hard images are hard for both; the second model is better by 0.05 on removals alone, on average."""
    rng = np.random.default_rng(0)
    first, noise, is_removal = rng.beta(0.6, 0.6, COUNT), rng.normal(0, 0.01, COUNT), np.array(KINDS) == "removal"
    noise[~is_removal] -= noise[~is_removal].mean()
    return first, first + 0.05 * is_removal + noise


def test_a_difference_is_shown_with_its_interval_where_there_is_one() -> None:
    first, second = scores()
    found = compared(first, second)
    f1 = found.metrics["f1"]
    assert (f1.first.value, f1.second.value) == pytest.approx((first.mean(), second.mean()))
    assert f1.difference.value == pytest.approx((second - first).mean())
    assert f1.is_shown
    assert 0 < f1.difference.low < f1.difference.value < f1.difference.high
    assert found.metrics["iou"].difference.value == pytest.approx((second - first).mean() / 2)
    assert [(one.by, one.value, one.f1.is_shown) for one in found.slices] == [
        ("kind", "removal", True),
        ("kind", "splice", False),
    ]


def test_the_images_that_differ_most_are_listed_first() -> None:
    first, second = scores()
    found = compared(first, second).most_apart
    order = np.argsort(-abs(second - first))[:MOST_APART]
    assert [one.id for one in found] == [IDS[place] for place in order]
    assert (found[0].first, found[0].second) == (first[order[0]], second[order[0]])


def test_a_model_and_itself_do_not_differ() -> None:
    first, _ = scores()
    found = compared(first, first)
    assert not any(pair.is_shown for pair in [*found.metrics.values(), *(one.f1 for one in found.slices)])
    assert found.metrics["f1"].difference.value == 0
    assert found.most_apart == []


def test_two_equal_models_seldom_seem_to_differ() -> None:
    """Of models whose images differ by chance alone 5% show a difference: of 120 at most 5% and 4 deviations."""
    rng = np.random.default_rng(1)
    shown = sum(compared(*rng.random((2, COUNT))).metrics["f1"].is_shown for _ in range(120))
    assert shown / 120 < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 120)


def test_authentic_images_have_no_f1_and_other_metrics_all_the_same() -> None:
    comparison = Comparison(["f1", "called"], replicates=50)
    values = ({"f1": [None, None], "called": called} for called in ([0.1, 0.2], [0.3, 0.2]))
    comparison.add(["a", "b"], [{"kind": "authentic"}] * 2, *values)
    found = comparison.result()
    assert list(found.metrics) == ["called"]
    assert found.metrics["called"].difference.value == pytest.approx(0.1)
    assert (found.slices, found.most_apart) == ([], [])


def test_an_image_on_which_one_model_has_no_value_is_left_out() -> None:
    comparison = Comparison(["f1"], replicates=50)
    comparison.add(["a", "b"], [{}, {}], {"f1": [0.1, None]}, {"f1": [0.3, 0.2]})
    f1 = comparison.result().metrics["f1"]
    assert (f1.second.value, f1.difference.value, f1.difference.images) == pytest.approx((0.3, 0.2, 1))
    assert not f1.is_shown  # of one image the interval has no width
