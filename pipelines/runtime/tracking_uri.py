"""What a `tracking.uri` may be: the address of an MLflow server, or a database that MLflow opens itself.

In the URI of an SQLite file, as SQLAlchemy reads it, `%20` is a space and `?` begins options; a path of a folder is put
into one by `of_file`. MLflow makes the folder of a `sqlite:///` path as it is written, escapes and all, so that a path
with escapes is given as `sqlite+pysqlite:///`, which MLflow and SQLAlchemy take for the same.
"""

import os
import re
from urllib.parse import quote, unquote

from pipelines.runtime import uris

VARIABLE = "MLFLOW_TRACKING_URI"
"""The default of every MLflow client, and of `tracking.uri`."""
_FILE = re.compile(r"sqlite(?:\+pysqlite)?:///")
_EXAMPLE = "sqlite:///<path>/mlflow.db"
_ELSEWHERE = re.compile(r"(https?|(postgresql|mysql|mssql)(\+\w+)?)://.+|databricks(://.+)?")


def checked(uri: str) -> str:
    """The uri, with the path of an SQLite file made absolute: workers run in other folders. ValueError where MLflow
    could not open it."""
    if uri.startswith("sqlite"):
        found = _FILE.match(uri)
        written, question, options = uri[found.end() if found else len(uri) :].partition("?")
        if written in ("", ":memory:") or written.startswith("file:") or written.endswith("/"):
            raise ValueError(f"an SQLite store needs a file that every process can open; give {_EXAMPLE}")
        if written.startswith("~"):
            raise ValueError(f"~ is no home folder in an SQLite address; give {_EXAMPLE} with the whole path")
        try:
            path = unquote(written, errors="strict")
        except UnicodeDecodeError:
            raise ValueError(f"its escapes are no UTF-8; give {_EXAMPLE}") from None
        if re.search("[\x00-\x1f\x7f\ud800-\udfff]", path):
            raise ValueError(f"control characters are in no path; give {_EXAMPLE}")
        return of_file(path) + question + options
    if not _ELSEWHERE.fullmatch(uri) or re.search(r"[\s\x00-\x1f\x7f\ud800-\udfff]", uri):
        raise ValueError(f"give a server such as http://mlflow.example.com:5000, or a file as {_EXAMPLE}")
    return uri


def of_file(path: str) -> str:
    """The address of an SQLite file, whose folder may have any name."""
    path = uris.absolute(path if os.path.isabs(path) else f"./{path}")
    escaped = path.replace("%", "%25").replace("?", "%3F")
    return f"sqlite{'' if escaped == path else '+pysqlite'}:///{escaped}"


def default() -> str | None:
    """The address that MLFLOW_TRACKING_URI gives; None where it is not set. ValueError, which names it, where it cannot
    be used."""
    uri = os.environ.get(VARIABLE)
    try:
        return checked(uri) if uri else None
    except ValueError as error:
        shown = uris.without_secrets(uri or "")
        raise ValueError(f"{VARIABLE}={shown!r}: {error}; or unset it, or set tracking.uri, which goes first") from None


def database(uri: str) -> str | None:
    """The file of an SQLite store; None for a server, and for a database of one."""
    found = _FILE.match(uri)
    return unquote(uri[found.end() :].partition("?")[0]) if found else None


def absent_database(uri: str) -> str | None:
    """The SQLite file of a store, where it is not there: whoever only reads must not make one."""
    file = database(uri)
    return file if file is not None and not os.path.exists(file) else None


def of_artifacts(folder: str) -> str:
    """Where MLflow keeps artifacts, as it reads it: it decodes escapes of a path, and takes ? and # for parts of a URI.
    ValueError for a place in object storage that it cannot write to."""
    if not re.search("[%?#]", folder):
        return folder
    if not uris.is_remote(folder):
        return f"file://{quote(folder)}"
    if re.search("[?#]", folder):
        raise ValueError(
            f"MLflow cannot keep artifacts in {folder}: it takes ? and # for parts of a URI; give another workspace, or"
            " a server (tracking.uri), which has a place of its own"
        )
    return folder
