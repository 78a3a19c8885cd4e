"""What a `tracking.uri` may be, and which file an SQLite store is."""

from pathlib import Path

import pytest

from pipelines.runtime import tracking_uri


@pytest.mark.parametrize(
    "uri",
    [
        "http://host:5000",
        "https://me:secret@host/mlflow",
        "postgresql://me@host/mlflow",
        "postgresql+pg8000://me@host/mlflow",
        "mysql+pymysql://host/x",
        "mssql+pyodbc://host/x",
        "databricks",
        "databricks://profile",
    ],
)
def test_a_server_or_a_database_of_one_stays_as_it_is(uri: str) -> None:
    assert tracking_uri.checked(uri) == uri
    assert tracking_uri.database(uri) is None
    assert tracking_uri.absent_database(uri) is None


def test_the_file_of_an_sqlite_store_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = tracking_uri.checked("sqlite:///below/../runs.db?timeout=7")
    assert uri == f"sqlite:///{tmp_path}/runs.db?timeout=7"
    assert tracking_uri.checked(uri) == uri
    assert tracking_uri.database(uri) == f"{tmp_path}/runs.db"
    assert tracking_uri.absent_database(uri) == f"{tmp_path}/runs.db"
    (tmp_path / "runs.db").touch()
    assert tracking_uri.absent_database(uri) is None


@pytest.mark.parametrize("uri", ["sqlite:///", "sqlite:///:memory:", "sqlite://runs.db", "sqlite:runs.db"])
def test_a_store_in_memory_or_without_a_file_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"sqlite:///<path>/mlflow\.db"):
        tracking_uri.checked(uri)


@pytest.mark.parametrize("uri", ["", "./mlruns", "file:///mlruns", "ftp://host", "http://", "postgres://host"])
def test_what_mlflow_could_not_open_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="give a server such as"):
        tracking_uri.checked(uri)
