"""The trail leads back through promotions and rollbacks, whatever happened between."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mpc_model.errors import UserError
from pipelines.model_registry import audit_trail
from pipelines.model_registry.audit_trail import PROMOTE, REFUSE, ROLLBACK, Entry


def entry(action: str, before: str | None, after: str) -> Entry:
    return Entry(action, before, after, "ann@host", "2026-01-01T00:00:00+00:00", "because")


def ways(*moves: tuple[str | None, str] | tuple[str | None, str, str]) -> list[Entry]:
    """Promotions (before, after), or other actions (before, after, action)."""
    return [entry(move[2] if len(move) == 3 else PROMOTE, move[0], move[1]) for move in moves]


@pytest.mark.parametrize(
    ("moves", "current", "expected"),
    [
        ([], "1", None),
        ([(None, "1")], "1", None),
        ([(None, "1"), ("1", "2"), ("2", "3")], "3", "2"),
        ([(None, "1"), ("1", "2"), ("2", "3"), ("3", "2", ROLLBACK)], "2", "1"),
        ([(None, "1"), ("1", "2"), ("2", "1", ROLLBACK)], "1", None),
        ([(None, "1"), ("1", "2"), ("2", "1")], "1", "2"),  # promoted again, which is no rollback
        ([(None, "1"), ("1", "2"), ("2", "1"), ("1", "2", ROLLBACK)], "2", "1"),
        ([(None, "1"), ("1", "2"), ("2", "9", REFUSE)], "2", "1"),
        ([(None, "1"), ("1", "2")], "1", None),  # the last one died before it moved
        ([(None, "1"), ("1", "2"), ("2", "3"), ("3", "2", ROLLBACK)], "3", "2"),  # and here the rollback did
        ([(None, "1"), ("1", "2"), ("1", "2")], "2", "1"),  # it died, and was tried again
        ([(None, "1"), ("1", "2")], "7", None),  # moved by hand
        ([(None, "1"), ("1", "2"), ("7", "8")], "8", "7"),  # by hand between
        ([(None, "1"), ("1", "2"), ("2", "3")], "2", "1"),  # back by hand
        ([(None, "1"), (None, "2")], "2", None),  # the alias was deleted between
    ],
)
def test_the_version_before(moves: list[tuple[str | None, str]], current: str, expected: str | None) -> None:
    assert next(iter(audit_trail.earlier(ways(*moves), current)), None) == expected


def test_all_versions_before() -> None:
    assert audit_trail.earlier(ways((None, "1"), ("1", "2"), ("2", "3")), "3") == ["2", "1"]


@pytest.mark.parametrize("value", ["x", "{}", "[]", "5", "null", '{"action": "promote"}'])
def test_a_tag_that_is_no_entry_is_named(value: str) -> None:
    with pytest.raises(UserError, match=r"the tag mpc\.audit\.champion\.000099 .* is no entry of ours; delete it"):
        audit_trail.trail({"mpc.audit.champion.000099": value}, "champion")


def test_a_version_that_was_rolled_back_is_known_until_it_is_promoted_again() -> None:
    moves = ways((None, "1"), ("1", "2"), ("2", "1", ROLLBACK))
    gone = audit_trail.rolled_back(moves, "2")
    assert gone is not None
    assert gone.before == "2"
    assert audit_trail.rolled_back(moves, "1") is None
    assert audit_trail.rolled_back([*moves, entry(PROMOTE, "1", "2")], "2") is None


@pytest.mark.parametrize("user", ["ann", ""])
def test_who_is_the_user_of_the_server_or_of_the_system(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setattr("getpass.getuser", lambda: "system")
    assert audit_trail.who().startswith(f"{user or 'system'}@")

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert audit_trail.who().startswith(f"{user}@" if user else "uid ")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    uri = f"sqlite:///{tmp_path_factory.mktemp('audit')}/mlflow.db"
    client = MlflowClient(uri, uri)
    client.create_registered_model("m")
    client.create_model_version("m", str(Path("/somewhere")))
    return client


def test_entries_are_tags_of_the_model_and_of_the_version(registry: MlflowClient) -> None:
    told = entry(PROMOTE, None, "1")
    audit_trail.write(registry, "m", "champion", 7, told, ["figures holds"])
    tags = registry.get_registered_model("m").tags
    assert audit_trail.trail(tags, "champion") == {7: told}
    assert audit_trail.trail(tags, "champ") == {}
    on_version = json.loads(registry.get_model_version("m", "1").tags["mpc.audit.champion.000007"])
    assert (on_version["who"], on_version["why"], on_version["gates"]) == ("ann@host", "because", ["figures holds"])
