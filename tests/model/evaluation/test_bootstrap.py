"""The Poisson bootstrap: its weights, its intervals by simulation, pairs, and what it costs."""

import math
import time
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from mpc_model.evaluation import bootstrap
from mpc_model.evaluation.bootstrap import Replicates, interval, weights, weights_of


def names(count: int, prefix: str = "image") -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


def test_weights_follow_from_seed_and_id_alone() -> None:
    drawn = weights(names(300), 200, seed=5)
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn[[7]], weights(["image-7"], 200, seed=5))
    assert np.array_equal(drawn[:, :90], weights(names(300), 90, seed=5))
    assert not np.array_equal(drawn, weights(names(300), 200, seed=6))
    # Of the algorithm: results of another version can be compared, pair by pair.
    assert weights(["a", "b"], 12).tolist() == [
        [1, 1, 0, 1, 0, 0, 1, 3, 1, 4, 1, 1],
        [0, 0, 2, 1, 0, 0, 1, 0, 0, 1, 2, 2],
    ]


def test_weights_are_those_of_a_poisson_distribution_of_mean_1() -> None:
    drawn = weights(names(2000), 500)
    counts = np.bincount(drawn.ravel(), minlength=8)
    expected = stats.poisson.pmf(np.arange(7), 1) * drawn.size
    assert stats.chisquare([*counts[:7], counts[7:].sum()], [*expected, drawn.size - expected.sum()]).pvalue > 1e-3
    # Images and replicates are independent: the correlations of n pairs have a standard deviation of 1 / sqrt(n).
    for rows in (drawn[:40], drawn.T[:40]):
        correlations = np.corrcoef(rows)[np.triu_indices(40, 1)]
        assert abs(correlations).max() < 4.5 / math.sqrt(rows.shape[1])
        assert correlations.std() == pytest.approx(1 / math.sqrt(rows.shape[1]), rel=0.1)


@pytest.mark.parametrize("images", [8, 60])
def test_intervals_cover_the_true_mean_as_often_as_they_say(images: int) -> None:
    """The percentile interval of a mean of n normal values is mean -+ z s sqrt((n - 1) / n) / sqrt(n), but for the
    noise of its own draws, so it holds the true mean with the probability that |t| of n - 1 degrees of freedom is below
    z sqrt((n - 1) / n): 94.3% of 60 images, 89.3% of 8. Poisson weights do not add up to n; the ratio of sums has a
    spread that is larger by a term of order 1 / n, which adds 2% at most to 8."""
    trials, rng = 1200, np.random.default_rng(1)
    held = 0
    for trial in range(trials):
        values = rng.normal(0.5, 0.1, images)
        replicates = Replicates(["f1"], 300)
        replicates.add(names(images, str(trial)), {"f1": values.tolist()})
        estimate = replicates.estimate("f1")
        assert estimate is not None
        held += estimate.low <= 0.5 <= estimate.high
    nominal = 2 * stats.t.cdf(stats.norm.ppf(0.975) * math.sqrt((images - 1) / images), images - 1) - 1
    chance = 4 * math.sqrt(nominal * (1 - nominal) / trials)
    assert nominal - chance - 0.01 < held / trials < nominal + chance + 0.02


def test_an_interval_is_that_of_drawing_images_anew() -> None:
    rng = np.random.default_rng(2)
    values = rng.beta(0.5, 0.5, 200)
    replicates = Replicates(["f1"], 4000)
    replicates.add(names(200), {"f1": values.tolist()})
    estimate = replicates.estimate("f1")
    slow = [rng.choice(values, 200).mean() for _ in range(4000)]
    assert estimate is not None
    assert estimate.value == pytest.approx(values.mean())
    width = estimate.high - estimate.low
    assert [estimate.low, estimate.high] == pytest.approx(np.percentile(slow, [2.5, 97.5]), abs=0.06 * width)


def test_what_is_not_defined_is_left_out_of_its_own_mean() -> None:
    replicates = Replicates(["f1", "auc", "mcc"], 50)
    replicates.add(names(3), {"f1": [0.2, None, 0.4], "auc": [1.0, 1.0, math.nan], "mcc": [None] * 3})
    f1, auc = replicates.estimate("f1"), replicates.estimate("auc")
    assert f1 is not None
    assert auc is not None
    assert (f1.value, f1.images) == (pytest.approx(0.3), 2)
    assert (auc.value, auc.low, auc.high, auc.images) == (1, 1, 1, 2)
    assert replicates.estimate("mcc") is None
    with pytest.raises(ValueError, match="not paired"):
        replicates.difference("f1", "mcc")


def test_a_difference_is_paired_and_none_of_a_model_with_itself() -> None:
    rng = np.random.default_rng(3)
    hard = rng.random(100)  # how hard an image is moves both models alike
    better = np.clip(hard + 0.02 + rng.normal(0, 0.01, 100), 0, 2)
    replicates = Replicates(["a", "b", "a again"])
    for part in (slice(0, 30), slice(30, 100)):
        values = {"a": hard[part].tolist(), "b": better[part].tolist(), "a again": hard[part].tolist()}
        replicates.add(names(100)[part], values)
    difference, alone = replicates.difference("b", "a"), replicates.estimate("a")
    assert difference is not None
    assert alone is not None
    assert 0 < difference.low < (better - hard).mean() < difference.high < 0.03
    assert alone.high - alone.low > 0.1  # unpaired the two could not be told apart
    same = replicates.difference("a again", "a")
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_images_in_parts_and_at_once_give_the_same() -> None:
    values = np.random.default_rng(4).random(600)
    whole, parts = Replicates(["f1"], 100), Replicates(["f1"], 100)
    whole.add(names(600), {"f1": values.tolist()})
    for start in range(0, 600, 7):
        parts.add(names(600)[start : start + 7], {"f1": values[start : start + 7].tolist()})
    one, other = whole.estimate("f1"), parts.estimate("f1")
    assert one is not None
    assert other is not None
    assert [one.value, one.low, one.high] == pytest.approx([other.value, other.low, other.high])


def test_an_interval_of_nothing_is_no_number() -> None:
    assert all(map(math.isnan, interval(np.full(10, math.nan))))
    assert Replicates(["f1"]).estimate("f1") is None


def test_memory_does_not_grow_with_the_number_of_images_and_an_image_costs_microseconds() -> None:
    replicates = Replicates(["f1", "iou"])
    values, began = [0.5] * 1000, time.process_time()
    peaks = []
    tracemalloc.start()
    for part in range(6):
        replicates.add(names(1000, str(part)), {"f1": values, "iou": values})
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[-1] < 1.05 * peaks[0]
    assert (time.process_time() - began) / 6000 < 1e-3
    assert weights_of(bootstrap.keys(names(2))).shape == (2, 1000)
