"""Two ranks that share work: results in order, errors on both, and the validation metrics of one process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from training_runs import at
from two_ranks import TwoRanks

from mpc_model.errors import DamagedError, DataError, MPCError
from pipelines.config.root import Config
from pipelines.finetune import Finetuning
from pipelines.pretrain import Pretraining
from pipelines.training.loop import TrainingLoop
from pipelines.training.shares import Shares
from pipelines.training.validation import Validator
from pipelines.training.worker_context import WorkerContext

CPU = torch.device("cpu")
STAGES = {"pretrain": Pretraining, "finetune": Finetuning}
PIECES = [torch.arange(2.0 * n).reshape(n, 2) + 100 * n for n in (3, 1, 0, 4, 2)]


def failing() -> Any:
    raise DamagedError("a file was cut")


def failure(work: Callable[[], Any]) -> str:
    """What an MPCError says, and of which kind it is."""
    try:
        work()
    except MPCError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def shared_results(rank: int) -> dict[str, Any]:
    shares = Shares(rank, 2)
    norm = nn.BatchNorm2d(3)
    norm.running_mean.fill_(rank + 5)
    shares.copy_buffers(norm)
    return {
        "gathered": shares.gathered(lambda: list("abcde")[rank::2]),
        "rows": shares.rows_on_first(PIECES[rank::2], CPU),
        "rows of one rank": shares.rows_on_first(PIECES[:1] if rank == 0 else [], CPU),
        "no rows": shares.rows_on_first([], CPU),
        "first": shares.first(lambda: f"of {rank}"),
        "buffers": norm.state_dict(),
        "failures": [
            failure(lambda: shares.agreed(failing if rank == 1 else lambda: 1)),
            failure(lambda: shares.gathered(failing if rank == 0 else lambda: [1])),
            failure(lambda: shares.first(failing)),
        ],
    }


def of_rank(rank: int, config: Config) -> dict[str, Any]:
    found = shared_results(rank)
    for verb, stage in STAGES.items():
        loop = TrainingLoop(config, stage, WorkerContext(rank=rank, world_size=2), None)
        loop._epoch(stop_after=2)
        loop._read()
        loop._close_epoch()
        found[verb] = loop.progress.history[-1]
        if rank == 0:
            found[f"{verb} alone"] = Validator(config, stage, CPU).validate(loop.stage.localizer)
    return found


@pytest.fixture(scope="module")
def ranks(built: Config, two_ranks: TwoRanks, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has found; both stages took two steps, and their norms are not synchronised."""
    folder = tmp_path_factory.mktemp("ranks")
    config = at(built, folder, "train.batch_size=2", "finetune.start=scratch", "finetune.unfreeze=all")
    return two_ranks.run(of_rank, config)


def test_results_are_in_the_order_of_the_pieces(ranks: list[dict[str, Any]]) -> None:
    assert [rank["gathered"] for rank in ranks] == [list("abcde")] * 2
    assert [rank["first"] for rank in ranks] == ["of 0"] * 2
    first, second = ranks
    for expected, found in zip(PIECES, first["rows"], strict=True):
        assert torch.equal(expected, found)
    assert torch.equal(first["rows of one rank"][0], PIECES[0])
    assert second["rows"] == second["rows of one rank"] == first["no rows"] == second["no rows"] == []


def test_an_error_of_one_rank_is_raised_on_all(ranks: list[dict[str, Any]]) -> None:
    assert [rank["failures"] for rank in ranks] == [["DamagedError: a file was cut"] * 3] * 2


def test_buffers_are_those_of_the_first_rank(ranks: list[dict[str, Any]]) -> None:
    assert [rank["buffers"]["running_mean"].tolist() for rank in ranks] == [[5, 5, 5]] * 2


@pytest.mark.parametrize("verb", STAGES)
def test_the_metrics_of_two_ranks_are_those_of_one_process(ranks: list[dict[str, Any]], verb: str) -> None:
    first, second = (rank[verb] for rank in ranks)
    assert first == second
    assert {name: first[name] for name in ranks[0][f"{verb} alone"]} == pytest.approx(ranks[0][f"{verb} alone"])
    assert STAGES[verb].monitor in first


def test_alone_there_is_nobody_to_wait_for() -> None:
    shares = Shares()
    assert shares.gathered(lambda: [1, 2]) == [1, 2]
    assert shares.first(lambda: 3) == 3
    assert shares.rows_on_first(PIECES, CPU) == PIECES
    with pytest.raises(DataError, match="a file was cut"):
        shares.agreed(failing)
