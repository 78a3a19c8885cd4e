"""What the driver makes of the messages of workers; integration/test_train_kill.py drills the rest of the module."""

import threading
from typing import Any

import pytest

from pipelines.runtime import console
from pipelines.training.ray_backend import _on_message
from pipelines.training.ray_callbacks import GroupLost, GroupRuns


def test_that_a_group_was_lost_is_said_once_for_each_group(capsys: pytest.CaptureFixture[str]) -> None:
    """Ray Train asks its callback again until it has ended the group."""
    epochs: list[dict[str, float]] = []
    runs = threading.Event()
    lost = GroupLost("pretrain: worker 1 was lost; going back to the last checkpoint")
    messages: list[Any] = [GroupRuns(), lost, lost, lost, GroupRuns(), console.line("resuming"), {"epoch": 1.0}, lost]
    for message in messages:
        _on_message(epochs.append, runs, message)
        assert runs.is_set() == (not isinstance(message, GroupLost))
    warning = f"{lost.reason}\n"
    said = capsys.readouterr().err.replace("warning: ", "")
    assert said == f"{warning}resuming\n{warning}"
    assert epochs == [{"epoch": 1.0}]
