"""The background thread: jobs in order, their failures raised to whoever waits, and few of them at once."""

import threading

import pytest

from mpc_model.errors import MPCError
from pipelines.training.background import Background

PATIENCE = 60


def test_jobs_are_done_in_order_in_another_thread() -> None:
    done: list[tuple[int, int]] = []
    with Background() as background:
        for number in range(5):
            background.submit(lambda number=number: done.append((number, threading.get_ident())))
        background.wait()
    assert [number for number, _ in done] == list(range(5))
    assert {thread for _, thread in done}.isdisjoint({threading.get_ident()})


def test_a_failure_is_raised_by_the_next_call_and_once() -> None:
    def fail() -> None:
        raise MPCError("no room")

    with Background() as background:
        background.submit(fail)
        with pytest.raises(MPCError, match="no room"):
            background.wait()
        background.wait()
        background.poll()


def test_no_more_than_one_job_waits() -> None:
    gate, third = threading.Event(), threading.Event()
    with Background() as background:
        for _ in range(2):
            background.submit(lambda: gate.wait(PATIENCE) and None)
        background.poll()  # waits for nothing
        caller = threading.Thread(target=lambda: (background.submit(list), third.set()))
        caller.start()
        assert not third.wait(0.05)
        gate.set()
        assert third.wait(PATIENCE)
        caller.join()


def test_at_the_end_what_is_under_way_is_finished_and_after_an_interrupt_the_rest_is_dropped() -> None:
    for error, expected in ((MPCError, [0, 1]), (KeyboardInterrupt, [0])):
        gate, started, done = threading.Event(), threading.Event(), list[int]()

        def first(gate: threading.Event = gate, started: threading.Event = started, done: list[int] = done) -> None:
            started.set()
            gate.wait(PATIENCE)
            done.append(0)

        background = Background()
        background.submit(first)
        background.submit(lambda done=done: done.append(1))
        assert started.wait(PATIENCE)
        threading.Timer(0.05, gate.set).start()
        background.__exit__(error, error(), None)
        assert done == expected
