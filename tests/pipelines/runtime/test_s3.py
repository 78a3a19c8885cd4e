"""What differs for S3, on a real server: listings, number of requests, expired credentials, servers that are away."""

import itertools
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fault_proxy import FaultProxy

from mpc_model.errors import InfrastructureError, UserError
from pipelines.runtime import console, s3_settings, storage
from pipelines.runtime import s3 as requests


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses and a short patience."""
    monkeypatch.setattr(requests, "_BACKOFF", replace(requests._BACKOFF, first=0.01, attempts=4))
    monkeypatch.setenv("MPC_S3_TIMEOUT", "0.3")


def test_a_listing_goes_on_over_pages(s3: str) -> None:
    for number in range(5):
        storage.write_bytes(f"{s3}/pages/{number}", b"")
    assert [uri[-1] for uri, _ in requests.objects(f"{s3}/pages", limit=2)] == list("01234")
    storage.delete(f"{s3}/pages")
    with pytest.raises(FileNotFoundError):
        next(requests.objects(f"{s3}/pages"))


def test_each_operation_is_one_request(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """s3fs itself looks for a folder, too, and reads headers before it reads."""
    folder = f"{s3}/requests"
    operations = (
        (1, lambda: storage.write_bytes(f"{folder}/x", b"1")),
        (1, lambda: storage.create(f"{folder}/y", b"1")),
        (1, lambda: storage.read_bytes(f"{folder}/x")),
        (1, lambda: storage.exists(f"{folder}/x")),
        (1, lambda: storage.exists(f"{folder}/missing")),
        (1, lambda: storage.stamp(f"{folder}/missing")),
        (1, lambda: storage.list_files(folder)),
        (1, lambda: storage.folder_exists(f"{folder}/missing")),
        (2, lambda: storage.create(f"{folder}/y", b"1")),  # whose is it?
        (2, lambda: storage.delete(f"{folder}/x")),  # is it a file?
        (3, lambda: storage.delete(folder)),  # no, what is below, and all of that
    )
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], share=0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        for number, (count, operation) in enumerate(operations):
            proxy.counts.clear()
            operation()
            assert (number, proxy.counts.total()) == (number, count)


def test_a_key_that_looks_like_a_version_is_a_key(s3: str) -> None:
    storage.write_bytes(f"{s3}/versions/a?versionId=1", b"1")
    storage.write_bytes(f"{s3}/versions/a", b"2")
    assert storage.read_bytes(f"{s3}/versions/a?versionId=1") == b"1"
    assert [uri[-3:] for uri in storage.list_files(f"{s3}/versions")] == ["s/a", "d=1"]


def test_a_large_object_goes_in_parts_and_is_ours_alone(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_PART", 5 << 20)
    data = os.urandom(12 << 20)
    storage.write_bytes(f"{s3}/parts/written", data)
    assert storage.read_bytes(f"{s3}/parts/written") == data
    assert storage.create(f"{s3}/parts/created", data)
    assert storage.read_bytes(f"{s3}/parts/created") == data


def test_a_server_that_takes_no_bytes_is_given_up(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the word that it may go on is waited for, nor room for what is sent."""
    monkeypatch.setattr(requests, "_BACKOFF", replace(requests._BACKOFF, attempts=2))
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never reads
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
        started = time.monotonic()
        with pytest.raises(InfrastructureError, match="storage failed at s3://b/x 2 times"):
            storage.write_bytes("s3://b/x", bytes(16 << 20))
        assert time.monotonic() - started < 20


def test_a_server_that_is_away_is_said_with_its_address(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
    with pytest.raises(InfrastructureError, match=f"storage failed at s3://b/x 4 times.*127.0.0.1:{port}"):
        storage.read_bytes("s3://b/x")


def test_credentials_that_have_expired_are_read_anew(
    s3: str, hasty: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another program renews the file of credentials."""
    file = tmp_path / "credentials"
    keys = "[default]\naws_access_key_id = {}\naws_secret_access_key = x\naws_session_token = y\n"
    file.write_text(keys.format("first"))
    storage.write_bytes(f"{s3}/expired", b"1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setattr(console, "warn", lambda text: file.write_text(keys.format("second")))  # at the third failure
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], share=1, faults=["expired"], limit=3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert storage.read_bytes(f"{s3}/expired") == b"1"
        assert [key for key, _ in itertools.groupby(proxy.access_keys)] == ["first", "second"]


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
        assert s3_settings.settings().region == region
        storage.write_bytes(f"{s3}/profiles/{profile}", b"x")
        filesystem, path = storage.resolve(f"{s3}/profiles/{profile}")
        assert filesystem.open_input_file(path).read() == b"x"
    assert s3_settings.settings().style == "path"
    monkeypatch.setenv("AWS_PROFILE", "virtual")
    assert s3_settings.settings().style == "virtual"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert s3_settings.settings().endpoint is None
    for variable, value, words in (
        ("AWS_PROFILE", "nobody", "S3 cannot be used: .*nobody.*; check the AWS variables"),
        ("AWS_CA_BUNDLE", "/no/such.pem", r"no file of certificates /no/such\.pem; check AWS_CA_BUNDLE"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            with pytest.raises(UserError, match=words):
                storage.exists(f"{s3}/x")
