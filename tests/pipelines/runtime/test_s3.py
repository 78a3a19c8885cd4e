"""Requests to S3, on a real server: conditions, listings and clients that follow the variables."""

import os
from pathlib import Path

import pytest

from mpc_model.errors import UserError
from pipelines.runtime import s3 as requests
from pipelines.runtime import storage


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


def test_a_profile_gives_both_clients_the_same_server(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoint, region and credentials from the SDK's files alone."""
    file = tmp_path / "config"
    keys = "aws_access_key_id = test\naws_secret_access_key = other\n"
    server = f"endpoint_url = {os.environ['AWS_ENDPOINT_URL']}\n"
    file.write_text(
        f"[profile global]\nregion = eu-west-1\n{server}{keys}"
        f"[profile service]\nservices = mine\n{keys}[services mine]\ns3 =\n  {server}"
        f"[profile virtual]\n{server}s3 =\n  addressing_style = virtual\n"
    )
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    for profile, region in (("global", "eu-west-1"), ("service", "us-east-1")):
        monkeypatch.setenv("AWS_PROFILE", profile)
        assert requests._settings().region == region
        storage.write_bytes(f"{s3}/profiles/{profile}", b"x")
        filesystem, path = storage.resolve(f"{s3}/profiles/{profile}")
        assert filesystem.open_input_file(path).read() == b"x"
    assert requests._settings().style == "path"
    monkeypatch.setenv("AWS_PROFILE", "virtual")
    assert requests._settings().style == "virtual"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert requests._settings().endpoint is None
    for variable, value, words in (
        ("AWS_PROFILE", "nobody", "S3 cannot be used: .*nobody.*; check the AWS variables"),
        ("AWS_CA_BUNDLE", "/no/such.pem", r"no file of certificates /no/such\.pem; check AWS_CA_BUNDLE"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            with pytest.raises(UserError, match=words):
                storage.exists(f"{s3}/x")
