"""Gauges and counters of a running job: what may be recorded, and that a process without Ray records nothing."""

import subprocess
import sys
import typing

import pytest

from pipelines.runtime import telemetry


def test_a_process_without_ray_records_nothing_and_imports_nothing_of_it() -> None:
    script = """
import sys, threading
from pipelines.runtime import telemetry
telemetry.set_gauge("mpc_train_loss", 0.5, verb="pretrain", output="/run")
telemetry.count("mpc_build_shards_total", output="/dataset")
with telemetry.CheckpointAge(verb="pretrain", output="/run"):
    print("ray" in sys.modules, threading.active_count())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False 1\n", done.stderr


def test_every_name_has_a_series() -> None:
    assert list(typing.get_args(telemetry.GaugeName)) == list(telemetry.GAUGES)
    assert list(typing.get_args(telemetry.CounterName)) == list(telemetry.COUNTERS)


def test_a_value_without_a_tag_of_its_series_is_an_error(ray_session: None) -> None:
    with pytest.raises(ValueError, match="output"):
        telemetry.set_gauge("mpc_train_loss", 0.5, verb="pretrain")
    telemetry.set_gauge("mpc_train_loss", 0.5, verb="pretrain", output="/run")
    with pytest.raises(ValueError, match="must be >0"):
        telemetry.count("mpc_build_shards_total", 0, output="/dataset")
