"""How many workers a pool has."""

import pytest

from mpc_model.errors import UserError
from pipelines.config import recipe
from pipelines.config.pool import PoolConfig


@pytest.mark.parametrize(
    ("workers", "tasks", "expected"),
    [("auto", 7, (1, 7)), (3, 7, (3, 3)), ((2, 5), 7, (2, 5)), ((2, 5), 1, (1, 1)), (9, 7, (7, 7))],
)
def test_a_pool_is_never_larger_than_its_work(
    workers: int | tuple[int, int], tasks: int, expected: tuple[int, int]
) -> None:
    assert PoolConfig(workers=workers).worker_range(tasks) == expected


def test_predict_and_evaluate_take_workers_cores_and_an_accelerator() -> None:
    config = recipe.load(None, ["predict.workers=[2, 8]", "evaluate.workers=0", "predict.accelerator=gpu"])
    assert (config.predict.workers, config.evaluate.workers) == ((2, 8), 0)
    assert (config.predict.accelerator, config.evaluate.accelerator) == ("gpu", "auto")
    with pytest.raises(UserError, match=r"predict: workers must be \[min, max\]"):
        recipe.load(None, ["predict.workers=[8, 2]"])
    with pytest.raises(UserError, match=r"predict\.workers"):
        recipe.load(None, ["predict.workers=many"])
