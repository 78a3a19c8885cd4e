"""Environment variables that this project reads, those that it sets for libraries, and how long it waits for what.

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
    Default("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5", "Ray Train takes one report each time; its 2 are slow."),
    Default("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1", "A search names Ray Tune's loggers itself."),
    Default("TUNE_PRINT_ALL_TRIAL_ERRORS", "0", "The search itself says why a trial failed."),
    Default("TUNE_FUNCTION_THREAD_TIMEOUT_S", "600", "A stopped trial ends in order before its process has the next."),
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
    Default(
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
        "0",
        "A Ray that no other machine joins listens on 127.0.0.1 alone; Ray has this for desktops, under this name.",
    ),
)
"""Set where the command starts a Ray of its own (`cluster_address`)."""


class Variable(NamedTuple):
    """A variable that this project reads, and what it does."""

    name: str
    default: str
    meaning: str


VARIABLES = (
    Variable("MPC_LOG", "info", "The lowest level of the lines that are shown: debug, info or warning."),
    Variable("MPC_LOG_FORMAT", "plain", "plain for people, json for machines."),
    Variable("MPC_S3_TIMEOUT", "30", "Seconds without a byte after which a request to S3 counts as failed."),
    Variable(
        "RAY_ADDRESS",
        "",
        "host:port of the head of a Ray cluster to join, or auto for that of this machine; without it, or with local, a"
        " command starts its own.",
    ),
    Variable(
        "RAY_TMPDIR",
        "",
        "The folder for the files of a Ray that a command starts; without it TMPDIR, then /tmp. Its path is short: the"
        " names of Ray's sockets have 107 bytes at most.",
    ),
    Variable("TMPDIR", "/tmp", "The folder for temporary files."),
    Variable("TORCHINDUCTOR_CACHE_DIR", "", "The folder for compiled code; without it, a folder in XDG_CACHE_HOME."),
    Variable("XDG_CACHE_HOME", "~/.cache", "The folder for what can be made again."),
    Variable("MLFLOW_TRACKING_URI", "", "The default of tracking.uri."),
    Variable("AWS_ENDPOINT_URL_S3", "", "An S3 server other than that of AWS; goes before AWS_ENDPOINT_URL."),
    Variable("AWS_ENDPOINT_URL", "", "An S3 server other than that of AWS."),
    Variable("AWS_REGION", "", "The region of S3; goes before AWS_DEFAULT_REGION."),
    Variable("AWS_DEFAULT_REGION", "", "The region of S3; us-east-1 where an endpoint is set."),
    Variable("AWS_ACCESS_KEY_ID", "", "Credentials of S3, as the SDK reads them."),
    Variable("AWS_SECRET_ACCESS_KEY", "", "Credentials of S3, as the SDK reads them."),
    Variable("AWS_SESSION_TOKEN", "", "Credentials of S3, as the SDK reads them."),
    Variable("AWS_PROFILE", "", "The profile of the SDK's files: credentials, region, endpoint, addressing style."),
    Variable("AWS_CA_BUNDLE", "", "A file of certificates that S3 servers are checked by."),
)
UNUSED_MLFLOW = {
    "MLFLOW_REGISTRY_URI": "models are registered beside their runs, where tracking.uri says",
    "MLFLOW_EXPERIMENT_NAME": "set tracking.experiment",
    "MLFLOW_EXPERIMENT_ID": "set tracking.experiment",
    "MLFLOW_RUN_ID": "each command makes a run of its own, or goes on with it",
}
UNUSED_S3 = {
    "AWS_MAX_ATTEMPTS": "requests to S3 are tried again by a rule of our own",
    "AWS_RETRY_MODE": "requests to S3 are tried again by a rule of our own",
}
"""Variables that other programs use and this project does not, with what it does instead."""
WORKER_VARIABLES = ("MPC_LOG", "MPC_LOG_FORMAT", "MPC_S3_TIMEOUT")
"""Variables of this project that are passed on to the workers of a cluster that a command joins."""

LEASE_BEAT_SECONDS = 3.0
"""How often the holder of an output's lease rewrites it: four times before others think that it died."""
LEASE_PATIENCE_SECONDS = 12.0
"""A lease that was not rewritten for so long has lost its holder. A pause of S3 or of the process is shorter."""
REGISTRY_LOCK_PATIENCE_SECONDS = 300.0
"""A lock of the registry that is there for so long has lost its holder, which needs it for a minute at most."""
REGISTRY_LOCK_PAUSE_SECONDS = 0.2
"""Between two looks at a lock of the registry: each is a request to MLflow."""
S3_FIRST_PAUSE_SECONDS, S3_LONGEST_PAUSE_SECONDS, S3_ATTEMPTS = 0.5, 16.0, 8
"""Of a request to S3 that failed for a passing reason: about 36 seconds in all, longer than a restart of a server."""
S3_CONNECT_SECONDS = 10.0
"""A server of S3 that does not accept a connection for so long is away; never longer than MPC_S3_TIMEOUT."""
TRIAL_PAUSE_SECONDS, TRIAL_PATIENCE_SECONDS = 5.0, 600.0
"""Of a new trial that waits for an MLflow that does not answer: no other trial is lost by waiting."""
REPORTS_FIRST_PAUSE_SECONDS, REPORTS_LONGEST_PAUSE_SECONDS = 1.0, 30.0
"""Between attempts to send reports to an MLflow that does not answer, for as long as the training goes on."""
REPORTS_END_SECONDS, REPORTS_HURRY_SECONDS = 30.0, 5.0
"""How long the end of a command waits until all reports are sent; of one that failed or was interrupted."""
WATCHDOG_PATIENCE_SECONDS, WATCHDOG_PAUSE_SECONDS = 120.0, 5.0
"""How long, and how often, the watchdog tries to reach an MLflow that does not answer, to end the runs of a command."""
VALIDATOR_START_SECONDS = 120.0
"""How long validation beside the training may take to start; then a worker does it."""
ORDERLY_SECONDS = 4.0
"""How long a command whose Ray was ended with it may take to end in order: less than Ray itself waits (5 seconds)."""
RAY_HEAD_SECONDS = 10.0
"""A head of Ray that does not accept a connection for so long is away; Ray itself tries for minutes."""
TASK_RETRIES = 10
"""Times that a piece of a build is done again after its worker was lost."""
CAPACITY_SECONDS = 60.0
"""How often a job says what it waits for while the cluster has no room for any of its workers."""


def unused(with_s3: bool) -> list[str]:
    """A line for each variable that is set and not used; those of S3 only where S3 is used."""
    listed = UNUSED_MLFLOW | (UNUSED_S3 if with_s3 else {})
    return [f"{name} is set and not used: {words}" for name, words in listed.items() if os.environ.get(name)]


def cluster_address() -> str | None:
    """What RAY_ADDRESS says; None where a command starts a Ray of its own (not set, empty, or `local`)."""
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def prepare() -> None:
    """Set the defaults; called before Ray or MLflow can be imported."""
    defaults = LIBRARY_DEFAULTS if cluster_address() else LIBRARY_DEFAULTS + OWN_CLUSTER_DEFAULTS
    for default in defaults:
        os.environ.setdefault(default.name, default.value)
