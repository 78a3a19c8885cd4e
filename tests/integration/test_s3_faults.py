"""Storage on a real S3 server: credentials, exclusive creation, and the exact bytes through a network that fails."""

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import FAULTS, FaultProxy

from mpc_model.errors import InfrastructureError, UserError
from pipelines.runtime import console, s3, storage


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses and a short patience, so that failures cost little time."""
    monkeypatch.setattr(s3, "_BACKOFF", replace(s3._BACKOFF, first=0.02))
    monkeypatch.setenv("MPC_S3_TIMEOUT", "1")


def swift_endpoint() -> str:
    return os.environ["AWS_ENDPOINT_URL"]


def is_missing(place: str) -> bool:
    with pytest.raises(UserError, match=f"nothing found at {place}"):
        storage.read_bytes(place)
    return True


def through(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    return proxy


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_SECRET_ACCESS_KEY", "not-the-secret"), ("AWS_ACCESS_KEY_ID", "nobody:here")],
    ids=["wrong secret", "unknown key"],
)
def test_wrong_credentials_fail_at_once(swift: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    storage.write_bytes(f"{swift}/x", b"1")
    with FaultProxy(swift_endpoint(), share=0) as proxy:
        through(proxy, monkeypatch)
        monkeypatch.setenv(variable, value)
        verbs = (
            storage.read_bytes,
            storage.exists,
            storage.list_files,
            lambda uri: storage.write_bytes(uri, b"2"),
            lambda uri: storage.create(uri, b"2"),
        )
        started = time.monotonic()
        for verb in verbs:
            with pytest.raises(UserError, match=r"refused the credentials for s3://.*AWS_SECRET_ACCESS_KEY") as caught:
                verb(f"{swift}/x")
            assert "not-the-secret" not in str(caught.value)
        assert time.monotonic() - started < 5
        assert proxy.counts == {"passed": len(verbs)}  # one request each: never tried again


def test_a_bucket_that_does_not_exist_is_named_at_once(swift: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultProxy(swift_endpoint(), share=0) as proxy:
        through(proxy, monkeypatch)
        verbs = (storage.read_bytes, storage.list_files, lambda uri: storage.write_bytes(uri, b"1"))
        for verb in verbs:
            with pytest.raises(UserError, match=r"bucket of s3://no-such-bucket/x does not exist"):
                verb("s3://no-such-bucket/x")
        assert proxy.counts == {"passed": len(verbs)}


def test_without_credentials_the_variables_are_named(
    swift: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    empty = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(empty / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(empty / "config"))
    with pytest.raises(UserError, match="check the AWS variables"):
        storage.read_bytes(f"{swift}/x")


def test_of_eight_who_create_one_file_one_succeeds(swift: str) -> None:
    for attempt in range(10):
        place, start = f"{swift}/claims/{attempt}", threading.Barrier(8)

        def claim(name: int, place: str = place, start: threading.Barrier = start) -> bool:
            start.wait()
            return storage.create(place, b"%d" % name)

        with ThreadPoolExecutor(8) as pool:
            won = [name for name, wins in enumerate(pool.map(claim, range(8))) if wins]
        assert len(won) == 1
        assert storage.read_bytes(place) == b"%d" % won[0]
    assert not storage.create(place, b"late")


def test_a_creation_whose_answer_is_lost_is_still_ours(
    swift: str, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    with FaultProxy(swift_endpoint(), share=1, faults=["lost"], methods=["PUT"], limit=2) as proxy:
        through(proxy, monkeypatch)
        assert storage.create(f"{swift}/claim", b"mine")
        assert not storage.create(f"{swift}/claim", b"mine")  # the same bytes, but of another who asks
        assert proxy.counts["lost"] == 2


def test_the_stamp_of_a_file_is_that_of_the_listing_and_listings_go_page_by_page(
    swift: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcdefgh":
        storage.write_bytes(f"{swift}/pages/{name}", name.encode() * 3)
    stamps = storage.list_stamps(f"{swift}/pages")
    assert list(stamps) == [f"{swift}/pages/{name}" for name in "abcdefgh"]
    assert all(storage.stamp(place) == stamp and stamp.size == 3 for place, stamp in stamps.items())
    assert dict(s3.objects(f"{swift}/pages", limit=3)) == stamps
    monkeypatch.setattr(s3, "_KEYS", 3)
    storage.delete(f"{swift}/pages")
    assert not storage.folder_exists(f"{swift}/pages")


def test_what_arrow_uploads_in_parts_is_read_whole(swift: str) -> None:
    data = noise(1, 11 << 20)
    filesystem, path = storage.resolve(f"{swift}/large")
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)
    assert storage.read_bytes(f"{swift}/large") == data
    with storage.open_input(f"{swift}/large") as stream:
        assert stream.read(5) == data[:5]
        assert stream.read() == data[5:]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_outlived(swift: str, monkeypatch: pytest.MonkeyPatch, hasty: None, fault: str) -> None:
    data = noise(2, 200_000)
    storage.write_bytes(f"{swift}/in/x", data)
    verbs = (
        lambda: storage.read_bytes(f"{swift}/in/x") == data,
        lambda: storage.list_files(f"{swift}/in") == [f"{swift}/in/x"],
        lambda: storage.write_bytes(f"{swift}/out", data) is None,
        lambda: is_missing(f"{swift}/in/y"),
        lambda: storage.exists(f"{swift}/in/x") and not storage.exists(f"{swift}/in/y"),
    )
    limit = 1 if fault in ("stall", "trickle") else 2  # these cost time
    for verb in verbs:
        with (
            FaultProxy(swift_endpoint(), share=1, faults=[fault], limit=limit, slow=0.2) as proxy,
            monkeypatch.context() as m,
        ):
            m.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
            assert verb()
        assert proxy.counts[fault] >= 1
    assert storage.read_bytes(f"{swift}/out") == data


def test_three_hundred_files_through_faults_are_exact(swift: str, monkeypatch: pytest.MonkeyPatch, hasty: None) -> None:
    contents = {f"{swift}/many/{number:02}": noise(number, 2_000 + 700 * number) for number in range(90)}

    def there_and_back(place: str) -> bytes:
        storage.write_bytes(place, contents[place])
        assert storage.exists(place)
        return storage.read_bytes(place)

    with FaultProxy(swift_endpoint(), seed=3, share=0.25, slow=0.3) as proxy, ThreadPoolExecutor(12) as pool:
        through(proxy, monkeypatch)
        assert dict(zip(contents, pool.map(there_and_back, contents), strict=True)) == contents
        for listing in pool.map(storage.list_stamps, [f"{swift}/many"] * 30):
            assert {place: stamp.size for place, stamp in listing.items()} == {p: len(d) for p, d in contents.items()}
    assert set(proxy.counts) == {*FAULTS, "passed"}
    spoilt = 1 - proxy.counts["passed"] / proxy.counts.total()
    assert 0.15 < spoilt < 0.35


def test_parts_of_parquet_files_are_exact_through_faults(
    swift: str, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    table = pa.table({"number": range(20_000), "bytes": [noise(n, 20) for n in range(20_000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=4_000)
    storage.write_bytes(f"{swift}/x.parquet", sink.getvalue().to_pybytes())
    faults = [fault for fault in FAULTS if fault != "stall"]  # which Arrow outlives too, in 8 s each
    with FaultProxy(swift_endpoint(), seed=1, share=0.25, faults=faults, slow=0.3) as proxy:
        through(proxy, monkeypatch)
        filesystem, path = storage.resolve(f"{swift}/x.parquet")
        for _ in range(3):
            assert pq.ParquetFile(filesystem.open_input_file(path)).read().equals(table)
    assert proxy.counts.total() > proxy.counts["passed"]


def test_a_large_file_is_streamed_in_blocks_through_faults(
    swift: str, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    monkeypatch.setattr(s3, "_BLOCK", 50_000)
    data = noise(4, 1_234_567)
    storage.write_bytes(f"{swift}/large", data)
    with FaultProxy(swift_endpoint(), seed=2, share=0.25, slow=0.3) as proxy:
        through(proxy, monkeypatch)
        with storage.open_input(f"{swift}/large") as stream:
            assert b"".join(iter(lambda: stream.read(33_333), b"")) == data
    assert proxy.counts.total() - proxy.counts["passed"] >= 4


def test_a_file_that_changes_while_it_is_streamed_is_an_error(swift: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_BLOCK", 1000)
    storage.write_bytes(f"{swift}/x", noise(5, 3000))
    with storage.open_input(f"{swift}/x") as stream:
        stream.read(10)
        storage.write_bytes(f"{swift}/x", noise(6, 3000))
        with pytest.raises(InfrastructureError, match="PreconditionFailed"):
            stream.read()


@pytest.mark.parametrize("fault", ["unavailable", "stall"])
def test_a_lasting_fault_ends_with_what_was_seen_and_says_so_on_the_way(
    swift: str, monkeypatch: pytest.MonkeyPatch, fault: str, hasty: None
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    monkeypatch.setenv("MPC_S3_TIMEOUT", "0.3")
    with FaultProxy(swift_endpoint(), share=1, faults=[fault]) as proxy:
        through(proxy, monkeypatch)
        started = time.monotonic()
        seen = "503 SlowDown" if fault == "unavailable" else "[Tt]ime"
        with pytest.raises(InfrastructureError, match=f"storage failed at {swift}/x 8 times.*{seen}"):
            storage.read_bytes(f"{swift}/x")
        assert time.monotonic() - started < 15
        assert proxy.counts == {fault: 8}
    assert len(said) == 5  # from the third failure on, but for the last
    assert all(line.startswith(f"storage: {swift}/x does not answer as it should") for line in said)
