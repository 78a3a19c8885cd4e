"""The lease of an output folder: one holder, real files, real processes that are killed."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mpc_model.errors import InfrastructureError, MPCError, UserError
from pipelines.runtime import lease, lock
from pipelines.runtime.lock import HolderId


def written(folder: Path, number: int = 1) -> dict[str, Any]:
    return dict(json.loads((folder / "lease" / f"{number:06d}.json").read_text()))


def write(folder: Path, number: int = 1, **changed: Any) -> None:
    """A lease file in the format of earlier releases."""
    machine, process = lock.holder_id()
    document = {"holder": f"host, process {process},", "machine": machine, "process": process, "beat": 0} | changed
    (folder / "lease").mkdir(exist_ok=True)
    (folder / "lease" / f"{number:06d}.json").write_text(json.dumps(document))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.06)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.4)


def until(ready: Any) -> None:
    event = threading.Event()
    for _ in range(2000):
        if ready():
            return
        event.wait(0.01)
    raise AssertionError("it did not happen")


def test_it_is_a_file_that_names_its_holder_and_goes_with_the_block(tmp_path: Path) -> None:
    with lease.held(str(tmp_path), "build") as held:
        document = written(tmp_path)
        assert sorted(document) == ["beat", "holder", "machine", "process"]
        assert HolderId(document["machine"], document["process"]) == lock.holder_id()
        assert document["holder"].endswith(f", process {document['process']},")
        held.check()
        lease.check(str(tmp_path), lock.holder_id())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), lease.held(str(tmp_path), "build"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_holder_keeps_rewriting_it(tmp_path: Path, quick: None) -> None:
    with lease.held(str(tmp_path), "build"):
        until(lambda: written(tmp_path)["beat"] >= 3)


def test_a_second_job_is_refused_with_the_holder_s_name(tmp_path: Path, quick: None) -> None:
    with lease.held(str(tmp_path), "build"):
        words = rf"{written(tmp_path)['holder']} is writing .* at this moment; .* name another finetune\.output"
        with pytest.raises(UserError, match=words), lease.held(str(tmp_path), "finetune"):
            pass
        assert sorted(file.name for file in (tmp_path / "lease").iterdir()) == ["000001.json"]


def test_a_holder_that_was_killed_on_this_machine_is_succeeded_at_once(tmp_path: Path) -> None:
    code = "import sys, time\nfrom pipelines.runtime import lease\n"
    code += "with lease.held(sys.argv[1], 'build'):\n    print('held', flush=True)\n    time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    with lease.held(str(tmp_path), "build"):
        assert (written(tmp_path)["process"], written(tmp_path, 2)["process"]) == (
            process.pid,
            lock.holder_id().process,
        )
        with pytest.raises(MPCError, match="another job took over"):
            lease.check(str(tmp_path), HolderId(lock.holder_id().machine, process.pid))
    assert list(tmp_path.iterdir()) == []


def test_a_silent_holder_elsewhere_is_succeeded_after_the_patience(
    tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 7, machine="another", holder="far, process 3,")
    with lease.held(str(tmp_path), "tune"):
        assert written(tmp_path, 8)["machine"] == lock.holder_id().machine
    assert "tune: far, process 3, may be writing" in capsys.readouterr().err


def test_a_holder_that_was_succeeded_notices_and_leaves_the_successor_s_file(tmp_path: Path, quick: None) -> None:
    with lease.held(str(tmp_path), "build") as held:
        write(tmp_path, 2, machine="another")

        def is_lost() -> bool:
            try:
                held.check()
            except InfrastructureError as error:
                return "another job took over" in str(error)
            return False

        until(is_lost)
    assert written(tmp_path, 2)["machine"] == "another"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"holder": "x"}',
        '{"holder": 1, "machine": 2, "process": "x", "beat": []}',
        '{"holder": "x", "machine": "y", "process": 0, "beat": 1}',
        '{"holder": "x", "machine": "y", "process": 99999999999, "beat": 1}',
        '{"holder": "x", "machine": "y", "process": 1, "beat": -1}',
        '{"holder": "x", "machine": "y", "process": 1, "beat": 1e400}',
        '{"holder": "x", "machine": "y", "process": 1, "beat": 1, "beat": 2}',
        '{"holder": "' + "x" * 5000 + '", "machine": "y", "process": 1, "beat": 1}',
    ],
)
def test_a_file_that_is_no_lease_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "lease").mkdir()
    (tmp_path / "lease" / "000001.json").write_text(content)
    with pytest.raises(UserError, match=r"lease/000001\.json is not a lease file"), lease.held(str(tmp_path), "build"):
        pass


def test_other_files_in_the_folder_are_neither_leases_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "lease").mkdir()
    own = [tmp_path / "lease" / name for name in ("notes.txt", "7.json", "000001.json.part")]
    for file in own:
        file.write_text("mine")
    with lease.held(str(tmp_path), "build"):
        assert (tmp_path / "lease" / "000001.json").exists()
    assert sorted((tmp_path / "lease").iterdir()) == sorted(own)
