"""What a worker does that lost a connection; integration/test_train_kill.py drills it with real hosts."""

from types import SimpleNamespace

import pytest
import ray.train

from pipelines.training import preemption


@pytest.mark.parametrize(
    ("seconds", "stops", "waits"),
    [(30.0, False, 30.0), (30.0, True, 0.0), (-60.0, False, 0.0), (None, False, 0.0)],
)
def test_a_lost_connection_waits_for_a_machine_that_was_announced_to_go(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: float | None,
    stops: bool,
    waits: float,
) -> None:
    """Until its time, and as long as Ray Train may need after it; not where there was no notice, or at an interrupt."""
    clock = [1000.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(preemption, "time", SimpleNamespace(time=lambda: clock[0], sleep=sleep))
    notice = None if seconds is None else SimpleNamespace(deadline_ms=int((clock[0] + seconds) * 1000))
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: notice)
    waiting = preemption.Preemption("pretrain", grace=5.0)
    assert waiting() == (notice is not None)
    waiting.wait({1: RuntimeError("gloo: connection closed by peer")}, lambda: stops)
    longest = preemption.NOTICED_SECONDS + preemption.LOOK_SECONDS + 5
    assert waits <= clock[0] - 1000 <= waits + (longest if waits else 0)
    said = "warning: worker 1 lost its connection to another; waiting until the machine is gone"
    assert (said in capsys.readouterr().err) == (seconds == 30)
