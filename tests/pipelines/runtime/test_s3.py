"""Requests to S3, on a real server: conditions, listings and clients that follow the variables."""

import pytest

from mpc_model.errors import UserError
from pipelines.runtime import s3 as requests


def test_an_object_is_written_read_and_deleted(s3: str) -> None:
    uri = f"{s3}/unit/object"
    requests.put(uri, b"content")
    assert requests.get(uri) == b"content"
    stamp = requests.stamp(uri)
    assert stamp
    assert stamp.size == 7
    assert dict(requests.objects(f"{s3}/unit")) == {uri: stamp}
    requests.delete(uri)
    assert requests.stamp(uri) is None
    with pytest.raises(FileNotFoundError):
        requests.get(uri)


def test_only_the_first_creation_of_an_object_is_done(s3: str) -> None:
    uri = f"{s3}/unit/once"
    assert requests.create(uri, b"first")
    assert not requests.create(uri, b"second")
    assert requests.get(uri) == b"first"
    requests.delete(uri)


def test_a_listing_goes_on_over_pages(s3: str) -> None:
    for number in range(5):
        requests.put(f"{s3}/pages/{number}", b"")
    assert [uri[-1] for uri, _ in requests.objects(f"{s3}/pages", limit=2)] == list("01234")
    requests.delete(f"{s3}/pages")
    with pytest.raises(FileNotFoundError):
        next(requests.objects(f"{s3}/pages"))


def test_settings_follow_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://a")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://b")
    monkeypatch.setenv("MPC_S3_TIMEOUT", "4.5")
    settings = requests._settings()
    assert (settings.endpoint, settings.timeout) == ("http://b", 4.5)
    monkeypatch.setenv("MPC_S3_TIMEOUT", "soon")
    with pytest.raises(UserError, match="MPC_S3_TIMEOUT is a number of seconds, not 'soon'"):
        requests._settings()
