"""The trail leads back through promotions and rollbacks, whatever happened between; the turn is had by one alone."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines import audit
from pipelines.audit import PROMOTE, REFUSE, ROLLBACK, Entry


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
    assert audit.before(ways(*moves), current) == expected


def test_a_version_that_was_rolled_back_is_known_until_it_is_promoted_again() -> None:
    moves = ways((None, "1"), ("1", "2"), ("2", "1", ROLLBACK))
    gone = audit.rolled_back(moves, "2")
    assert gone is not None
    assert gone.before == "2"
    assert audit.rolled_back(moves, "1") is None
    assert audit.rolled_back([*moves, entry(PROMOTE, "1", "2")], "2") is None


@pytest.mark.parametrize("user", ["ann", ""])
def test_who_is_the_user_of_the_server_or_of_the_system(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setattr("getpass.getuser", lambda: "system")
    assert audit.who().startswith(f"{user or 'system'}@")

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert audit.who().startswith(f"{user}@" if user else "uid ")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    uri = f"sqlite:///{tmp_path_factory.mktemp('audit')}/mlflow.db"
    client = MlflowClient(uri, uri)
    client.create_registered_model("m")
    client.create_model_version("m", str(Path("/somewhere")))
    return client


def test_entries_are_tags_of_the_model_and_of_the_version(registry: MlflowClient) -> None:
    told = entry(PROMOTE, None, "1")
    audit.write(registry, "m", "champion", 7, told, ["figures holds"])
    tags = registry.get_registered_model("m").tags
    assert audit.trail(tags, "champion") == {7: told}
    assert audit.trail(tags, "champ") == {}
    on_version = json.loads(registry.get_model_version("m", "1").tags["mpc.audit.champion.000007"])
    assert (on_version["who"], on_version["why"], on_version["gates"]) == ("ann@host", "because", ["figures holds"])


def turns(registry: MlflowClient) -> list[str]:
    return [model.name for model in registry.search_registered_models() if "turn-" in model.name]


def test_the_turn_is_given_back_whatever_happens(registry: MlflowClient) -> None:
    with audit.turn(registry, "m", "champion"):
        assert turns(registry) == ["m.champion.turn-000001"]
        with audit.turn(registry, "m", "other"):  # of another alias
            assert len(turns(registry)) == 2
    with pytest.raises(RuntimeError), audit.turn(registry, "m", "champion"):
        raise RuntimeError
    assert turns(registry) == []


def test_a_turn_that_was_left_behind_is_passed_over(registry: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.create_registered_model("m.champion.turn-000001")
    monkeypatch.setattr(audit, "PATIENCE_SECONDS", 0.3)
    with audit.turn(registry, "m", "champion"):
        assert "m.champion.turn-000002" in turns(registry)
    assert turns(registry) == []


def test_of_two_who_find_no_turn_one_is_refused(registry: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both looked before either took it."""
    monkeypatch.setattr(audit, "_wait", lambda registry, prefix: {})
    with (
        audit.turn(registry, "m", "champion"),
        pytest.raises(audit.Refused, match="another promotion moves champion of m at this moment"),
        audit.turn(registry, "m", "champion"),
    ):
        pass
    assert turns(registry) == []


def test_a_turn_that_appears_beside_ones_own_is_seen(registry: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another passed over a turn that was left behind, while this one found none there any more."""
    registry.create_registered_model("m.champion.turn-000002")
    monkeypatch.setattr(audit, "_wait", lambda registry, prefix: {})
    with pytest.raises(audit.Refused), audit.turn(registry, "m", "champion"):
        pass
    assert turns(registry) == ["m.champion.turn-000002"]
    registry.delete_registered_model("m.champion.turn-000002")
