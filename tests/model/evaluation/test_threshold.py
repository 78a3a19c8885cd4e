"""Rules that choose a threshold, against trying each threshold on each image."""

import numpy as np
import pytest

from mpc_model.errors import DataError, UserError
from mpc_model.evaluation.histogram import histogram
from mpc_model.evaluation.metrics import pixel_scores
from mpc_model.evaluation.threshold import RULES, THRESHOLDS

Image = tuple[np.ndarray, np.ndarray]


def images(forged: int = 6, authentic: int = 4) -> list[Image]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(forged + authentic):
        mask = (rng.random((12, 9)) < 0.2 * (number < forged)).astype(np.uint8)
        mask[0] = 255
        map_ = np.clip(rng.normal(0.3 + 0.15 * mask.clip(0, 1), 0.1), 0, 1).astype(np.float32)
        made.append((map_, mask))
    return made


def chosen(name: str, scored: list[Image], at_most: float = 0.05) -> float:
    rule = RULES[name](at_most)
    for map_, mask in scored:
        rule.add(histogram(map_, mask))
    return rule.result()


def test_best_f1_is_the_largest_mean_over_forged_images() -> None:
    scored = images()

    def mean_f1(threshold: float) -> float:
        return np.mean([pixel_scores(*one, threshold=threshold).f1 for one in scored if (one[1] == 1).any()])

    f1 = [mean_f1(min(threshold, 1)) for threshold in THRESHOLDS]
    found = chosen("best_f1", scored)
    assert mean_f1(found) == pytest.approx(max(f1))
    assert found == THRESHOLDS[int(np.argmax(f1))]
    assert mean_f1(0.5) < 0.8 * max(f1)


def test_youden_is_the_largest_sum_of_both_rates() -> None:
    scored = images()
    level = np.concatenate([np.rint(map_[mask != 255] * 255) for map_, mask in scored])
    forged = np.concatenate([mask[mask != 255] for _, mask in scored]) == 1

    def both(threshold: float) -> float:
        called = level > 255 * threshold
        return called[forged].mean() + (~called[~forged]).mean()

    assert both(chosen("youden", scored)) == pytest.approx(max(map(both, THRESHOLDS)))


@pytest.mark.parametrize("at_most", [0.0, 0.05, 1.0])
def test_false_alarms_are_at_most_the_share_asked_for_and_the_threshold_is_the_lowest(at_most: float) -> None:
    scored = images()
    authentic = [one for one in scored if not (one[1] == 1).any()]

    def alarms(threshold: float) -> float:
        return np.mean([pixel_scores(*one, threshold=threshold).called_fraction for one in authentic])

    found = chosen("false_alarms", scored, at_most)
    assert alarms(found) <= at_most
    lower = found - 1 / 255
    assert lower < 0 or alarms(lower) > at_most


def test_where_all_is_called_at_every_score_nothing_is_to_be_called() -> None:
    white = (np.ones((3, 3), np.float32), np.zeros((3, 3), np.uint8))
    assert chosen("false_alarms", [white]) == 1.0


@pytest.mark.parametrize(("name", "forged", "authentic"), [("best_f1", 0, 3), ("youden", 0, 3), ("false_alarms", 3, 0)])
def test_images_that_a_rule_needs_are_asked_for(name: str, forged: int, authentic: int) -> None:
    with pytest.raises(DataError, match=f"rule {name} needs"):
        chosen(name, images(forged, authentic))


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'best_f1'"):
        RULES.require("best_f")
