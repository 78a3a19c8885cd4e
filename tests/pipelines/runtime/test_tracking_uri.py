"""What a `tracking.uri` may be, and which file an SQLite store is."""

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from mpc_model.errors import UserError
from pipelines.config import recipe
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


@pytest.mark.parametrize(
    "name", ["My%20Drive", "100%", "a?b=c", "%3F", "photos #2", "a+b", 'it\'s "q"', "日本 é", "a@b:c"]
)
def test_a_folder_of_any_name_has_an_address_of_its_own(name: str, tmp_path: Path) -> None:
    file = f"{tmp_path}/{name}/mlflow.db"
    uri = tracking_uri.of_file(file)
    assert tracking_uri.checked(uri) == uri
    assert tracking_uri.checked(f"{uri}?timeout=7") == f"{uri}?timeout=7"
    assert tracking_uri.database(f"{uri}?timeout=7") == file
    assert make_url(uri).database == file  # what MLflow opens
    assert uri.startswith("sqlite+pysqlite:///") is bool(set("%?") & set(name))


def test_escapes_and_options_are_read_as_sqlalchemy_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "100%").mkdir()
    monkeypatch.chdir(tmp_path / "100%")
    for typed in ("sqlite:///a%20b%2525#.db?timeout=7", "sqlite+pysqlite:///./a%20b%2525#.db?timeout=7"):
        uri = tracking_uri.checked(typed)
        assert tracking_uri.database(uri) == make_url(uri).database == f"{tmp_path}/100%/a b%25#.db"
        assert make_url(uri).query == {"timeout": "7"}


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://runs.db",
        "sqlite:runs.db",
        "sqlite",
        "sqlite:///?x=1",
        "sqlite:///folder/",
        "sqlite:///file:x.db?uri=true",
        "sqlite:///~/x.db",
        "sqlite:///a%00b",
        "sqlite:///a%FFb",
        "sqlite+aiosqlite:///a.db",
    ],
)
def test_a_store_in_memory_or_without_a_file_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"sqlite:///<path>/mlflow\.db"):
        tracking_uri.checked(uri)


@pytest.mark.parametrize(
    "uri",
    ["", "./mlruns", "file:///mlruns", "ftp://host", "http://", "postgres://host", "http://host/a b", "http://h\n"],
)
def test_what_mlflow_could_not_open_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="give a server such as"):
        tracking_uri.checked(uri)


def test_the_variable_of_mlflow_is_the_default_and_is_named_where_it_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking_uri.default() is None
    monkeypatch.setenv(tracking_uri.VARIABLE, "")
    assert tracking_uri.default() is None
    monkeypatch.setenv(tracking_uri.VARIABLE, f"sqlite:///{tmp_path}/theirs.db")
    assert recipe.load("demo").tracking.uri == f"sqlite:///{tmp_path}/theirs.db"
    assert recipe.load("demo", ["tracking.uri=http://ours:5000"]).tracking.uri == "http://ours:5000"
    monkeypatch.setenv(tracking_uri.VARIABLE, "file:///mlruns")
    assert recipe.load("demo", ["tracking.uri=http://ours:5000"]).tracking.uri == "http://ours:5000"
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI='file:///mlruns': give a server.*; or unset it") as told:
        recipe.load("demo")
    assert "\n" not in str(told.value)


def test_artifacts_lie_beside_the_database_whatever_the_folder_is_named() -> None:
    assert tracking_uri.of_artifacts("/a b/é+") == "/a b/é+"
    assert tracking_uri.of_artifacts("/My%20Drive #1") == "file:///My%2520Drive%20%231"
    assert tracking_uri.of_artifacts("s3://b/My%20Drive") == "s3://b/My%20Drive"
    for folder in ("s3://b/a?b", "s3://b/a#b"):
        with pytest.raises(ValueError, match="give another workspace, or a server"):
            tracking_uri.of_artifacts(folder)
