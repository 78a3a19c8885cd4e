"""What every store must do, whatever its scheme: local files, memory, S3 on moto and on OpenStack Swift.

    MPC_TEST_STORAGE=gs://bucket/prefix python -m pytest tests/integration/test_storage_contract.py

holds another one to it, with the credentials of its standard chain; what the tests write there is deleted.
"""

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpc_model.errors import UnreadableFileError, UserError
from pipelines.runtime import storage, uris

SHARED = [
    "local",
    pytest.param("moto", marks=pytest.mark.slow),
    "swift",
    *filter(None, [os.environ.get("MPC_TEST_STORAGE")]),
]
"""Those that several processes see. Of the two S3 servers the default suite takes the real one."""
STORES = [*SHARED, "memory"]
NAMES = (
    *("a b.png", " #1.png", "a?b=c&d.png", "%20%23.png", "a+b;c,d.png", "caf\u00e9.png", "cafe\u0301.png", "~x.png"),
    *("a*b.png", "[1].png", "a\\b.png", "a?versionId=3", "a#17", "'\"$.png", "a:b.png", "UPPER.PNG"),
)


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder or prefix of the store that the parameter names."""
    name: str = request.param
    if name in ("local", "memory"):
        location = str(tmp_path / "store") if name == "local" else f"memory://{uuid.uuid4().hex}"
    else:
        bucket = request.getfixturevalue({"moto": "s3"}.get(name, name)) if name in ("moto", "swift") else name
        location = uris.join(bucket, f"contract-{uuid.uuid4().hex}")
    yield location
    storage.delete(location)
    assert not storage.folder_exists(location)


every_store = pytest.mark.parametrize("store", STORES, indirect=True)


@every_store
def test_what_is_written_is_read_whole(store: str) -> None:
    large = os.urandom(1 << 20)
    for name, data in (("x", b"first"), ("deep/er/empty", b""), ("large", large), ("x", b"second"), ("x", b"")):
        location = uris.join(store, name)
        storage.write_bytes(location, pa.py_buffer(data))
        assert storage.read_bytes(location) == data
        assert storage.exists(location)
        assert storage.stamp(location).size == len(data)
        with storage.open_input(location) as stream:
            assert stream.read(3) == data[:3]
            assert stream.read() == data[3:]
    assert not storage.exists(uris.join(store, "deep"))
    assert storage.folder_exists(uris.join(store, "deep"))


@every_store
def test_a_listing_shows_at_once_what_is_there(store: str) -> None:
    with pytest.raises(UserError, match="nothing found"):
        storage.list_files(store)
    for number in range(3):
        storage.write_bytes(uris.join(store, f"{number}.json"), b"x" * number)
        listed = storage.list_stamps(store)
        assert list(listed) == [uris.join(store, f"{before}.json") for before in range(number + 1)]
        assert [stamp.size for stamp in listed.values()] == list(range(number + 1))
        assert all(storage.stamp(location) == stamp for location, stamp in listed.items())
    storage.delete(uris.join(store, "1.json"))
    assert [location[-6:] for location in storage.list_files(store)] == ["0.json", "2.json"]
    assert storage.stamp(uris.join(store, "1.json")).size == 0


@every_store
def test_a_prefix_is_deleted_and_nothing_beside_it(store: str) -> None:
    for name in ("a/1", "a/deep/2", "a.txt", "ab/3", "[a]/4", "c/a"):
        storage.write_bytes(uris.join(store, name), b"x")
    for name in ("a", "[a]", "c/a", "missing", "c/missing"):
        storage.delete(uris.join(store, name))
    assert storage.list_files(store) == [uris.join(store, name) for name in ("a.txt", "ab/3")]


@every_store
def test_of_eight_threads_one_creates_a_file(store: str) -> None:
    for number in range(4):
        location, start = uris.join(store, "claims", str(number)), threading.Barrier(8)

        def claim(name: int, location: str = location, start: threading.Barrier = start) -> bool:
            start.wait()
            return storage.create(location, b"%d" % name * 1000)

        with ThreadPoolExecutor(8) as pool:
            winners = [name for name, wins in enumerate(pool.map(claim, range(8))) if wins]
        assert len(winners) == 1
        assert storage.read_bytes(location) == b"%d" % winners[0] * 1000
    assert not storage.create(location, b"late")
    storage.delete(location)
    assert storage.create(location, b"again")


_CLAIM = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pipelines.runtime import storage
names, folder, count = sys.argv[1:]

def claim(name):
    for number in range(int(count)):
        if storage.create(f"{folder}/{number}", name.encode() * 100_000):
            sys.stdout.write(f"{name}{number}\\n")  # in one piece, among threads
        assert len(storage.read_bytes(f"{folder}/{number}")) == 100_000, "half a file was seen"

storage.exists(folder)
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(len(names)) as pool:
    list(pool.map(claim, names))
child = os.fork()
if not child:
    try:
        os._exit(len(storage.list_files(folder)) < int(count) or len(storage.read_bytes(f"{folder}/0")) != 100_000)
    finally:
        os._exit(2)
assert os.waitpid(child, 0)[1] == 0, "a forked process cannot use the store"
"""


@pytest.mark.parametrize("store", SHARED, indirect=True)
def test_of_eight_who_race_in_several_processes_one_creates_each_file(store: str) -> None:
    """They can fork, too, and end without a word on standard error."""
    count, racing = (40, ("ab", "cd", "ef", "gh")) if store.startswith("/") else (4, ("abcd", "efgh"))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _CLAIM, names, store, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for names in racing
    ]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ended = [racer.communicate(timeout=60) for racer in racers]
    assert [(racer.returncode, said) for racer, (_, said) in zip(racers, ended, strict=True)] == [(0, "")] * len(racing)
    won = [line for output, _ in ended for line in output.split()]
    assert sorted(line[1:] for line in won) == sorted(map(str, range(count)))
    content = {
        location.rsplit("/", 1)[1]: storage.read_bytes(location)[:1].decode() for location in storage.list_files(store)
    }
    assert content == {line[1:]: line[0] for line in won}


@every_store
def test_odd_names_are_names(store: str) -> None:
    folder = uris.join(store, "a folder #1?%20")
    azure = uris.scheme(store) in ("az", "abfs", "abfss")  # takes a backslash for a slash
    locations = {uris.join(folder, name): name.encode() for name in NAMES if not (azure and "\\" in name)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(storage.write_bytes, locations, locations.values()))
        assert storage.list_files(store) == sorted(locations)
        assert dict(zip(locations, pool.map(storage.read_bytes, locations), strict=True)) == locations
    odd = uris.join(folder, "a*b.png")
    assert not storage.create(odd, b"other")
    with storage.open_input(odd) as stream:
        assert stream.read() == b"a*b.png"
    storage.delete(odd)
    assert storage.list_files(store) == sorted(locations.keys() - {odd})


@every_store
def test_what_is_not_there_is_told_from_what_cannot_be_used(store: str) -> None:
    storage.write_bytes(uris.join(store, "folder", "file"), b"x")
    for missing in ("missing", "folder", "folder/missing"):
        for verb in (storage.read_bytes, lambda uri: storage.open_input(uri).__enter__()):
            with pytest.raises(UnreadableFileError, match=f"(nothing found at|cannot read) .*{missing}"):
                verb(uris.join(store, missing))
    with pytest.raises(UserError, match=r"nothing found at .*missing"):
        storage.list_files(uris.join(store, "missing"))


@every_store
def test_columns_are_read_by_arrow(store: str) -> None:
    table = pa.table({"number": range(1000), "name": [str(number) for number in range(1000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=100)
    storage.write_bytes(uris.join(store, "x.parquet"), sink.getvalue())
    filesystem, path = storage.resolve(uris.join(store, "x.parquet"))
    with filesystem.open_input_file(path) as file:
        assert pq.ParquetFile(file).read_row_group(3, columns=["name"]) == table.slice(300, 100).select(["name"])
    with pytest.raises(UserError, match="nothing found"), storage.explained(store):
        filesystem.open_input_file(f"{path}.missing")


@every_store
def test_many_threads_read_at_a_time(store: str) -> None:
    contents = {uris.join(store, str(number)): os.urandom(1000 + number) for number in range(20)}
    with ThreadPoolExecutor(40) as pool:
        list(pool.map(storage.write_bytes, contents, contents.values()))
        read = pool.map(storage.read_bytes, [*contents] * 4)
        assert all(data == contents[location] for location, data in zip([*contents] * 4, read, strict=True))
