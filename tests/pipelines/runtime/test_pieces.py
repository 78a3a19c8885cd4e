"""Pieces of work: results as they come and failures of ours as they were raised, by Ray Data and in this process."""

import os
import signal
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import cv2
import pytest

from mpc_model.errors import DataError, InfrastructureError
from pipelines.runtime import pieces


class Adder:
    """A worker that adds the shared number, and fails for a piece that the shared number names."""

    def __init__(self, load: Callable[[], int]) -> None:
        self.shared = load()

    def __call__(self, row: pieces.Row) -> pieces.Returned:
        return pieces.attempt(row["piece"], lambda: self.add(row["piece"]))

    def add(self, piece: int) -> bytes:
        if piece == self.shared:
            raise DataError(f"sample {piece} is damaged")
        return bytes([self.shared + piece])


class Deaths(NamedTuple):
    """How often workers shall die, and a folder with a file for each death."""

    folder: str
    times: int

    def die(self) -> None:
        """End this process unless enough have died."""
        if len(os.listdir(self.folder)) < self.times:
            Path(self.folder, uuid.uuid4().hex).touch()
            os.kill(os.getpid(), signal.SIGKILL)


class DiesWhileMade:
    """Gives each piece back, once enough have died."""

    def __init__(self, load: Callable[[], Deaths]) -> None:
        load().die()

    def __call__(self, row: pieces.Row) -> pieces.Returned:
        return pieces.attempt(row["piece"], lambda: bytes([row["piece"]]))


class DiesAtWork:
    """Dies at piece 1, and gives each piece back."""

    def __init__(self, load: Callable[[], Deaths]) -> None:
        self.deaths = load()

    def __call__(self, row: pieces.Row) -> pieces.Returned:
        if row["piece"] == 1:
            self.deaths.die()
        return pieces.attempt(row["piece"], lambda: bytes([row["piece"]]))


def rows(count: int) -> list[pieces.Row]:
    return [{"piece": piece} for piece in range(count)]


def test_results_and_failures_come_as_they_were_in_the_worker() -> None:
    assert list(pieces.run("build", Adder, 10, [], here=True)) == []
    assert list(pieces.run("build", Adder, 10, rows(3), here=True)) == [(0, b"\x0a"), (1, b"\x0b"), (2, b"\x0c")]
    with pytest.raises(DataError, match=r"^sample 2 is damaged$"):
        list(pieces.run("build", Adder, 2, rows(4), here=True))


def test_workers_of_ray_data_return_the_same_and_are_gone_when_it_ends(ray_session: None) -> None:
    done = list[tuple[int, bytes]]()
    with closing(pieces.run("build", Adder, 5, rows(7))) as run, pytest.raises(DataError, match="sample 5 is damaged"):
        done.extend(run)
    assert set(done) <= {(piece, bytes([5 + piece])) for piece in range(7)}
    assert list(pieces.run("build", Adder, 5, [])) == []


def test_opencv_has_one_thread_in_a_piece_and_its_own_number_afterwards() -> None:
    cv2.setNumThreads(3)
    try:
        returned = pieces.attempt(1, lambda: bytes([cv2.getNumThreads()]))
        assert (returned["result"], cv2.getNumThreads()) == (b"\x01", 3)
    finally:
        cv2.setNumThreads(-1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("worker", [DiesWhileMade, DiesAtWork])
def test_workers_that_die_have_their_pieces_done_again(
    ray_session: None, tmp_path: Path, worker: type[DiesWhileMade] | type[DiesAtWork]
) -> None:
    done = dict(pieces.run("build", worker, Deaths(str(tmp_path), 2), rows(4)))
    assert done == {piece: bytes([piece]) for piece in range(4)}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("worker", [DiesWhileMade, DiesAtWork])
def test_a_pool_whose_workers_always_die_ends_with_the_reason(
    ray_session: None, tmp_path: Path, worker: type[DiesWhileMade] | type[DiesAtWork]
) -> None:
    with pytest.raises(InfrastructureError, match="a worker was lost 11 times, at last: The actor died"):
        list(pieces.run("build", worker, Deaths(str(tmp_path), 1000), rows(4)))
    assert 11 <= len(list(tmp_path.iterdir())) < 60
