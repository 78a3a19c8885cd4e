"""The turn at writing to the registry is had by one alone, and taken from nobody else."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient

from pipelines.model_registry import lock


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    uri = f"sqlite:///{tmp_path_factory.mktemp('turn')}/mlflow.db"
    return MlflowClient(uri, uri)


def turns(registry: MlflowClient) -> list[str]:
    return [model.name for model in registry.search_registered_models() if "turn-" in model.name]


def test_it_is_given_back_whatever_happens(registry: MlflowClient) -> None:
    with lock.held(registry, "m.champion", "promote"):
        assert turns(registry) == ["m.champion.turn-000001"]
        with lock.held(registry, "m.other", "promote"), lock.held(registry, "m", "register"):
            assert len(turns(registry)) == 3
    with pytest.raises(RuntimeError), lock.held(registry, "m.champion", "promote"):
        raise RuntimeError
    assert turns(registry) == []


def test_several_who_come_at_once_have_it_one_after_the_other(registry: MlflowClient) -> None:
    inside, most, done = threading.Semaphore(1), list[bool](), list[int]()
    together = threading.Barrier(4)

    def work(number: int) -> None:
        together.wait()
        for _ in range(3):
            with lock.held(registry, "m.champion", "promote"):
                most.append(inside.acquire(blocking=False))
                done.append(number)
                inside.release()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sorted(done) == sorted([0, 1, 2, 3] * 3)
    assert all(most)
    assert turns(registry) == []


def test_one_that_was_left_behind_is_passed_over(registry: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.create_registered_model("m.champion.turn-000001", {lock._TAG: "promote"})
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.3)
    with lock.held(registry, "m.champion", "promote"):
        assert "m.champion.turn-000002" in turns(registry)
    assert turns(registry) == []


def test_one_that_appears_beside_ones_own_is_seen(registry: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another passed over a turn that was left behind, while this one found none there any more."""
    other, real = "m.champion.turn-000002", lock._wait_for_holder
    registry.create_registered_model(other, {lock._TAG: "promote"})
    looks = list[int]()

    def wait(*told: object) -> dict[int, int]:
        looks.append(1)
        if len(looks) == 1:
            return {}
        registry.delete_registered_model(other)
        return real(registry, "m.champion", "promote")

    monkeypatch.setattr(lock, "_wait_for_holder", wait)
    with lock.held(registry, "m.champion", "promote"):
        assert len(looks) == 2
        assert turns(registry) == ["m.champion.turn-000001"]
    assert turns(registry) == []


def test_what_is_only_named_like_one_is_neither_waited_for_nor_deleted(registry: MlflowClient) -> None:
    people_s = ["m.champion.turn-000007", "m.champion.turn-abc", "m.champion.turn-"]
    for name in people_s:
        registry.create_registered_model(name)
    with lock.held(registry, "m.champion", "promote"):
        assert set(turns(registry)) == {*people_s, "m.champion.turn-000008"}
    assert set(turns(registry)) == set(people_s)
    for name in people_s:
        registry.delete_registered_model(name)
