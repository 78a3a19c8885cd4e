"""What a `tracking.uri` may be: the address of an MLflow server, or a database that MLflow opens itself."""

import os
import re

_FILE = "sqlite:///"
_ELSEWHERE = re.compile(r"(https?|(postgresql|mysql|mssql)(\+\w+)?)://.+|databricks(://.+)?")


def checked(uri: str) -> str:
    """The uri, with the path of an SQLite file made absolute: workers run in other folders. ValueError where MLflow
    could not open it."""
    if uri.startswith("sqlite:"):
        path, question, more = uri.removeprefix(_FILE).partition("?")
        if not uri.startswith(_FILE) or path in ("", ":memory:"):
            raise ValueError(f"an SQLite store needs a file that every process can open; give {_FILE}<path>/mlflow.db")
        return f"{_FILE}{os.path.abspath(path)}{question}{more}"
    if not _ELSEWHERE.fullmatch(uri):
        raise ValueError(f"give a server such as http://mlflow.example.com:5000, or a file as {_FILE}<path>/mlflow.db")
    return uri


def database(uri: str) -> str | None:
    """The file of an SQLite store; None for a server, and for a database of one."""
    return uri.removeprefix(_FILE).partition("?")[0] if uri.startswith(_FILE) else None


def absent_database(uri: str) -> str | None:
    """The SQLite file of a store, where it is not there: whoever only reads must not make one."""
    file = database(uri)
    return file if file is not None and not os.path.exists(file) else None
