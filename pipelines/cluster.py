"""The one place that starts or joins Ray: a running cluster if there is one (RAY_ADDRESS), a local one otherwise."""

import logging
import os

# Set before Ray is imported: no usage statistics, and no copy of the virtual environment for local workers.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray


def connect() -> None:
    """Make sure that this process has Ray. Does nothing when it has."""
    if ray.is_initialized():
        return
    ray.init(
        address=os.environ.get("RAY_ADDRESS"),
        include_dashboard=None if os.environ.get("RAY_ADDRESS") else False,
        logging_level=logging.WARNING,
        log_to_driver=True,
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
