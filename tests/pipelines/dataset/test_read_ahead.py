"""Reading ahead: in order, as far as memory has room, and what is needed in any case."""

import threading
from concurrent.futures import wait
from dataclasses import dataclass

import pytest

from pipelines.dataset import read_ahead
from pipelines.dataset.read_ahead import Read, ReadAhead


@dataclass(frozen=True)
class Bytes:
    size: int


class Storage:
    """Reads of two positions each, of 40 bytes a position; they are done when `open` is set."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.open = threading.Event()

    def __call__(self, read: Read) -> dict[int, Bytes]:
        self.groups.append(read.group)
        assert self.open.wait(10)
        if read.group == 13:
            raise ValueError("group 13 is lost")
        return {position: Bytes(40) for position in read.positions}


def reads(count: int) -> list[Read]:
    return [Read(group=100 + number, positions=(2 * number, 2 * number + 1), bytes=100) for number in range(count)]


@pytest.fixture
def storage() -> Storage:
    return Storage()


def started(ahead: ReadAhead[Bytes]) -> int:
    return len(ahead._futures)


def test_what_is_needed_is_read_and_a_window_more(storage: Storage) -> None:
    ahead = ReadAhead(reads(100), storage, 1)
    storage.open.set()
    ahead.start(3)
    assert started(ahead) == 3 + read_ahead.WINDOW
    ahead.start(90)
    assert started(ahead) == 100
    assert ahead.take(99, 199) == Bytes(40)
    assert storage.groups == list(range(100, 200))
    ahead.close()


def test_memory_bounds_what_is_read_ahead_and_never_what_is_needed(storage: Storage) -> None:
    """A read counts whole (100 bytes) until it is done, then what is kept of it (80), then what was not taken yet."""
    ahead = ReadAhead(reads(40), storage, 2, 500)
    ahead.start(1)
    assert (started(ahead), ahead._held) == (5, 500)
    ahead.start(7)
    assert (started(ahead), ahead._held) == (7, 700)
    storage.open.set()
    wait(ahead._futures)
    assert ahead._held == 560
    ahead.start(7)
    assert started(ahead) == 7
    for number in range(2):
        ahead.take(number, 2 * number)
        ahead.take(number, 2 * number + 1)
    assert ahead._held == 400
    ahead.start(7)
    assert (started(ahead), ahead._held - 400 in (80, 100)) == (8, True)
    ahead.close()


def test_a_failure_is_raised_where_its_result_is_taken(storage: Storage) -> None:
    ahead = ReadAhead([*reads(2), Read(13, (4,), 100), Read(14, (5,), 100)], storage, 2)
    storage.open.set()
    ahead.start(1)
    assert ahead.take(0, 0) == Bytes(40)
    assert ahead.take(3, 5) == Bytes(40)
    with pytest.raises(ValueError, match="group 13 is lost"):
        ahead.take(2, 4)
    ahead.close()


def test_closing_gives_up_what_is_not_begun(storage: Storage) -> None:
    ahead = ReadAhead(reads(30), storage, 1)
    ahead.start(30)
    threading.Timer(0.05, storage.open.set).start()
    ahead.close()
    assert len(storage.groups) < 30
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]
