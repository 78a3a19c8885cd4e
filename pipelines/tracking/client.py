"""The client of an MLflow store: its failures as ours, and the lock under which an SQLite store is made."""

import errno
import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import IO, ParamSpec, TypeVar

import mlflow
from alembic.util.exc import CommandError
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine
from sqlalchemy.exc import SQLAlchemyError

from mpc_model.errors import InfrastructureError, UserError
from pipelines.config.root import Config
from pipelines.runtime import environment, lock, signals, tracking_uri, uris

for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.WARNING)

P = ParamSpec("P")
T = TypeVar("T")
_FLUENT = (tracking_uri.VARIABLE, *environment.UNUSED_MLFLOW)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_DOES_NOT_EXIST",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
}


@contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    """Failures of MLflow, and of the database behind it, become failures of ours, of one line."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            uris.without_secrets(f"tracking.uri: {uri} needs the package {error.name}; install it, or name a server")
        ) from error
    except (MlflowException, SQLAlchemyError, CommandError, OSError, Boto3Error, BotoCoreError, ClientError) as error:
        reason = " ".join(str(error).split())[:400]
        if getattr(error, "errno", None) in _FULL or "database or disk is full" in reason:
            file = getattr(error, "filename", None)
            shown = uris.without_secrets(f"no space left for MLflow at {uri}{f' ({file})' if file else ''}")
            raise InfrastructureError(f"{shown}; free some, and run the same command again") from error
        if "CREATE TABLE" in reason and "already exists" in reason:
            shown = uris.without_secrets(f"the tables of MLflow at {uri} were made only in part; they hold no runs")
            raise InfrastructureError(f"{shown}: delete the database, and run the same command again") from error
        answer = "refuses" if getattr(error, "error_code", "") in _REFUSALS else "does not answer"
        raise InfrastructureError(uris.without_secrets(f"MLflow at {uri} {answer}: {reason}")) from error


def mlflow_call(call: Callable[P, T]) -> Callable[P, T]:
    """Decorator of a function of MLflow whose first argument is the config: interrupts wait until it has returned, and
    its failures are ours."""

    @functools.wraps(call)
    def inner(*args: P.args, **kwargs: P.kwargs) -> T:
        with signals.defer_interrupts(), _translate_errors(str(args[0].tracking.uri)):  # type: ignore[attr-defined]
            return call(*args, **kwargs)

    return inner


def client(config: Config) -> MlflowClient:
    """A client of the configured store. The first use of an SQLite file creates its tables."""
    return _client(str(config.tracking.uri))


@contextmanager
def _lock_held(uri: str) -> Iterator[None]:
    """Hold the lock of an SQLite store while its tables are made: two processes at once would leave half of them.

    UserError where there can be no such file.
    """
    database = tracking_uri.database(uri)
    if database is None:
        yield
        return
    try:
        file = _open_lock_file(database)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UserError(
            f"tracking.uri: there can be no database at {database} ({error.strerror}); name another file"
        ) from None
    with file, lock.held_file(file) if file.writable() else nullcontext():  # who may only read makes no tables
        yield


def _open_lock_file(database: str) -> IO[str]:
    folder = os.path.dirname(database)
    os.makedirs(folder, exist_ok=True)
    if os.path.isdir(database):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if os.path.exists(database):  # MLflow would try for minutes
        with open(database, "rb") as file:
            if file.read(16) not in (b"", b"SQLite format 3\0"):
                raise FileExistsError(errno.EEXIST, "it is another kind of file")
    if os.path.exists(database) and not os.access(folder, os.W_OK):
        return open(database)
    return open(f"{database}.lock", "w")


@functools.cache
def _client(uri: str) -> MlflowClient:
    with signals.defer_interrupts(), _translate_errors(uri), _lock_held(uri):
        database = tracking_uri.database(uri)
        if database and not (os.path.exists(database) and os.path.getsize(database)):
            _make_tables(os.path.realpath(database))
        store = MlflowClient(tracking_uri=uri, registry_uri=uri)
        store.search_experiments(max_results=1)
    return store


def _make_tables(database: str) -> None:
    """Make an SQLite store elsewhere and move it to its place: MLflow does not go on with one that was half made."""
    part = f"{database}.part"
    for file in (part, f"{part}-journal"):
        with suppress(FileNotFoundError):
            os.unlink(file)
    engine = create_sqlalchemy_engine(tracking_uri.of_file(part))
    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()
    os.replace(part, database)


def translate_errors(config: Config) -> AbstractContextManager[None]:
    """In this block, a failure of the store is an InfrastructureError of one line."""
    return _translate_errors(str(config.tracking.uri))


@contextmanager
def fluent(config: Config) -> Iterator[None]:
    """MLflow's fluent calls read the store from the process: set it for this block only, and the registry.

    Variables by which users set the store, the registry, the experiment or the run of such calls are as they were
    afterwards; in the block they would lead them elsewhere.
    """
    before, registry = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    variables = {name: os.environ.pop(name, None) for name in _FLUENT}
    mlflow.set_tracking_uri(str(config.tracking.uri))
    mlflow.set_registry_uri(str(config.tracking.uri))
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        mlflow.set_registry_uri("" if registry == before else registry)  # "": it follows the store of the runs
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
