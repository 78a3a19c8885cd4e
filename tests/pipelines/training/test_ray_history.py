"""Ray's list of checkpoints: what Ray may write in an output, and that the list names only what is there."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.train import Checkpoint

from mpc_model.errors import UserError
from pipelines.training import ray_history

LIST = "checkpoint_manager_snapshot.json"


def listed(*steps: int, pending: int | None = None, version: str = ray.__version__) -> dict[str, Any]:
    """Ray's list as its version 2.60 writes it."""
    results = [{"version": 0, "checkpoint_dir_name": name(step), "metrics": {"step": step}} for step in steps]
    waiting = [one for one in results if one["checkpoint_dir_name"] == name(pending or 0)]
    return {
        "ray_version": version,
        "checkpoint_results": results,
        "checkpoint_report_indices": list(range(len(steps))),
        "latest_checkpoint_result": results[-1],
        "pending_training_results": waiting,
        "pending_validation_specs": [True] * len(waiting),
        "current_report_index": len(steps),
        "validated_checkpoint_dir_names": [name(step) for step in steps],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }


def name(step: int) -> str:
    return f"step-{step:09d}"


def finish(output: Path, *steps: int) -> Path:
    """Finished checkpoints of these steps; where Ray's list of them belongs."""
    for step in steps:
        folder = output / "checkpoints" / name(step)
        folder.mkdir(parents=True)
        (folder / "checkpoint.json").write_text("{}")
    return output / "checkpoints" / LIST


def write(output: Path, content: dict[str, Any]) -> None:
    """Write the list as Ray does."""
    filesystem, path = ray_history.filesystem(str(output))
    with filesystem.open_output_stream(f"{path}/checkpoints/{LIST}") as file:
        file.write(json.dumps(content).encode())


def test_a_list_that_ray_writes_names_only_checkpoints_that_are_there(tmp_path: Path) -> None:
    finish(tmp_path, 4, 8)
    write(tmp_path, listed(2, 4, 8, 12, pending=8))
    result = ray_history.result(str(tmp_path))
    assert result.checkpoint.path == str(tmp_path / "checkpoints" / name(8))
    assert [(checkpoint.path[-1], metrics) for checkpoint, metrics in result.best_checkpoints] == [
        ("4", {"step": 4}),
        ("8", {"step": 8}),
    ]


def test_of_a_checkpoint_that_was_reported_twice_the_last_report_stays(tmp_path: Path) -> None:
    finish(tmp_path, 4, 8)
    twice = listed(4, 8, 4)
    twice["checkpoint_results"][2]["metrics"] = {"step": 4, "f1": 0.5}
    write(tmp_path, twice)
    best = ray_history.result(str(tmp_path)).best_checkpoints
    assert [metrics for _, metrics in best] == [{"step": 8}, {"step": 4, "f1": 0.5}]


def test_the_list_is_not_written_for_a_checkpoint_that_could_not_be_written(tmp_path: Path) -> None:
    file = finish(tmp_path, 4)
    write(tmp_path, listed(2))
    assert not file.exists()
    with pytest.raises(UserError, match="was trained in one process"):
        ray_history.result(str(tmp_path))


def test_a_list_after_a_kill_or_an_update_of_ray_is_mended_before_ray_reads_it(tmp_path: Path) -> None:
    file = finish(tmp_path, 4)
    file.write_text(json.dumps(listed(2, 4)))
    ray_history.tidy(str(tmp_path))
    assert [one["checkpoint_dir_name"] for one in json.loads(file.read_text())["checkpoint_results"]] == [name(4)]
    for content in (json.dumps(listed(4, version="2.59.0")), "{", "[]", json.dumps({"ray_version": ray.__version__})):
        file.write_text(content)
        ray_history.tidy(str(tmp_path))
        assert not file.exists(), content


def test_ray_deletes_nothing_and_adds_nothing_else(tmp_path: Path) -> None:
    file = finish(tmp_path, 4)
    filesystem, path = ray_history.filesystem(str(tmp_path))
    for refused in (
        lambda: filesystem.delete_dir(f"{path}/checkpoints"),
        lambda: filesystem.delete_file(f"{path}/checkpoints/{name(4)}/checkpoint.json"),
        lambda: filesystem.open_output_stream(f"{path}/checkpoints/other"),
    ):
        with pytest.raises(OSError, match="Ray Train does not change"):
            refused()
    marker = f"{path}/checkpoints/.validate_storage_marker"
    filesystem.open_output_stream(marker).close()
    assert filesystem.get_file_info(marker).is_file
    assert [one.name for one in file.parent.iterdir()] == [name(4)]


def test_the_filesystem_is_the_same_one_in_another_process(tmp_path: Path) -> None:
    filesystem, path = ray_history.filesystem(str(tmp_path))
    assert pickle.loads(pickle.dumps(filesystem)) == filesystem
    assert filesystem != ray_history.filesystem(f"{tmp_path}/other")[0]
    (tmp_path / "checkpoints" / name(4)).mkdir(parents=True)
    (tmp_path / "checkpoints" / name(4) / "state.pt").write_bytes(b"tensors")
    with Checkpoint(f"{path}/checkpoints/{name(4)}", filesystem).as_directory() as folder:
        assert Path(folder, "state.pt").read_bytes() == b"tensors"


def test_the_name_of_a_run_follows_from_its_output() -> None:
    assert ray_history.run_name("pretrain", "s3://bucket/a") == ray_history.run_name("pretrain", "s3://bucket/a")
    assert ray_history.run_name("pretrain", "s3://bucket/a") != ray_history.run_name("pretrain", "s3://bucket/b")
