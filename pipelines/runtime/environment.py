"""The environment variables that this project reads, and those that it sets for the libraries below it.

`pipelines/__init__.py` calls `prepare`, so that Ray and MLflow, whichever module imports them, find their variables
set: both read some of them once, when they are imported. A variable that is set already is left as it is.
"""

import os
from typing import NamedTuple


class Default(NamedTuple):
    """A variable that is set for a library where the user has not set it, and why."""

    name: str
    value: str
    reason: str


LIBRARY_DEFAULTS = (
    Default("RAY_USAGE_STATS_ENABLED", "0", "Ray sends no usage statistics."),
    Default("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0", "Ray copies no virtual environment for workers of this machine."),
    Default("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0", "Tasks without a GPU see the machine's devices as they are."),
    Default("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1", "Trials keep their own records; Ray Tune's loggers write more."),
    Default("RAY_AIR_NEW_OUTPUT", "0", "The newer output of Ray Tune prints whatever the verbosity."),
    Default("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1", "The last report of a trial holds no metric."),
    Default("TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S", "1000000", "The search itself says what it waits for."),
    Default("MLFLOW_DISABLE_TELEMETRY", "true", "MLflow sends no usage statistics."),
    Default("DO_NOT_TRACK", "true", "Neither do other libraries that know this variable."),
    Default("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false", "A job has one progress line, its own."),
    Default("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true", "Standard output is kept for results."),
    Default("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2", "MLflow's own 7 keep a job silent for minutes."),
    Default("MLFLOW_HTTP_REQUEST_TIMEOUT", "20", "Seconds; MLflow's own 120 keep a job silent for minutes."),
)
OWN_CLUSTER_DEFAULTS = (
    Default(
        "RAY_gcs_rpc_server_reconnect_timeout_s",
        "5",
        "SIGTERM to a process group ends a Ray of our own, too, and this process waits for it: Ray's 60 seconds are"
        " longer than a supervisor waits before it sends SIGKILL. The head of another's cluster may come back.",
    ),
)
"""Set where RAY_ADDRESS is not: the command then starts a Ray of its own."""

WORKER_VARIABLES = ("MPC_LOG", "MPC_LOG_FORMAT", "MPC_S3_TIMEOUT")
"""Variables of this project that are passed on to the workers of a cluster that a command joins."""


def prepare() -> None:
    """Set the defaults; called before Ray or MLflow can be imported."""
    defaults = LIBRARY_DEFAULTS if "RAY_ADDRESS" in os.environ else LIBRARY_DEFAULTS + OWN_CLUSTER_DEFAULTS
    for default in defaults:
        os.environ.setdefault(default.name, default.value)
