"""What Ray Train keeps of a run: the list of its checkpoints, in the folder that holds ours.

Ray's run folder is `<output>/checkpoints`: a checkpoint that is reported is one that we have written there, and nothing
is copied. Ray adds one file, `checkpoint_manager_snapshot.json`, from which `ray.train.Result.from_path` reads the
checkpoints and their metrics. The list is Ray's; which checkpoints are kept is ours (training/checkpoint_writer.py).
"""

import hashlib
import io
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs
from ray import __version__ as ray_version
from ray.train import Result, RunConfig
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME, VALIDATE_STORAGE_MARKER_FILENAME
from ray.train.v2._internal.execution.storage import StorageContext

from mpc_model.errors import MPCError, UserError
from pipelines.artifacts import checkpoint
from pipelines.runtime import console, storage, uris

_FOLDER = "checkpoints"


def run_name(verb: str, output: str) -> str:
    """The name of a run in Ray's dashboard and metrics: the same one each time that the output goes on."""
    return f"{verb}-{hashlib.sha256(output.encode()).hexdigest()[:12]}"


def result(output: str) -> Result:
    """The Result of Ray Train for an output: its newest checkpoint, and all that are kept, with their metrics.

    UserError where no checkpoint was reported.
    """
    location = uris.join(output, _FOLDER)
    if not storage.exists(uris.join(location, CHECKPOINT_MANAGER_SNAPSHOT_FILENAME)):
        raise UserError(
            f"no list of Ray Train is in {location}: it was trained in one process, or by an earlier version;"
            f" read {uris.join(output, 'record.json')} instead"
        )
    filesystem, path = storage.resolve(location)
    return Result.from_path(path, filesystem)


def tidy(output: str) -> None:
    """Take checkpoints that are gone out of the list, and delete a list that this version of Ray does not read.

    Ray refuses to start with either: the one is what a kill leaves, the other an update of Ray.
    """
    location = uris.join(output, _FOLDER, CHECKPOINT_MANAGER_SNAPSHOT_FILENAME)
    if not storage.exists(location):
        return
    content = storage.read_bytes(location)
    try:
        listed = json.loads(content)
        if listed["ray_version"] != ray_version:
            raise ValueError
        left = _without(listed, _finished(output))
    except (ValueError, KeyError, TypeError):  # its form is Ray's own
        storage.delete(location)
        return
    if left != listed:
        storage.write_bytes(location, json.dumps(left).encode())


def _finished(output: str) -> set[str]:
    """The names of the folders of finished checkpoints."""
    return {checkpoint.folder("", step).rsplit("/", 1)[-1] for step in checkpoint.steps(output)}


def _without(listed: Mapping[str, Any], finished: set[str]) -> dict[str, Any]:
    """The content of Ray's list without the checkpoints that are not there; of those listed twice the last stays."""
    results, indices = listed["checkpoint_results"], listed["checkpoint_report_indices"]
    last = {one["checkpoint_dir_name"]: position for position, one in enumerate(results)}
    stay = [at for at, one in enumerate(results) if one["checkpoint_dir_name"] in finished and last[_name(one)] == at]
    pending = dict(zip(map(_name, listed["pending_training_results"]), listed["pending_training_results"], strict=True))
    specs = dict(zip(map(_name, listed["pending_training_results"]), listed["pending_validation_specs"], strict=True))
    latest = listed["latest_checkpoint_result"]
    remaining = [results[at] for at in stay]
    if latest and _name(latest) not in finished:
        latest = max(remaining, key=_name, default=None)
    names = {key: [one for one in value if one in finished] for key, value in listed.items() if key.endswith("_names")}
    return {
        **listed,
        **names,
        "checkpoint_results": remaining,
        "checkpoint_report_indices": [indices[at] for at in stay],
        "latest_checkpoint_result": latest,
        "pending_training_results": [one for name, one in pending.items() if name in finished],
        "pending_validation_specs": [one for name, one in specs.items() if name in finished],
    }


def _name(entry: Mapping[str, Any]) -> str:
    name: str = entry["checkpoint_dir_name"]
    return name


class OutputRunConfig(RunConfig):
    """A RunConfig whose folder is that of an output's checkpoints, whatever the name of the run."""

    @cached_property
    def storage_context(self) -> StorageContext:
        """Where Ray Train reads and writes."""
        return StorageContext(self.storage_path, _FOLDER, self.storage_filesystem)


def filesystem(output: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem that Ray Train is given for an output, and the path of the output in it."""
    return pafs.PyFileSystem(OutputHandler(output)), storage.resolve(output)[1]


class OutputHandler(pafs.FileSystemHandler):
    """What Ray Train sees of an output: it reads all of it, writes its list of checkpoints, and deletes nothing.

    The list is written as our own files are, at once and with retries. Where storage fails all the same, one line says
    so and training goes on: Ray writes the whole list again at the next report, and would otherwise start its workers
    again.
    """

    def __init__(self, output: str) -> None:
        self._output = output
        self._written: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return OutputHandler, (self._output,)

    @cached_property
    def _inner(self) -> pafs.FileSystem:
        return storage.resolve(self._output)[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OutputHandler) and other._output == self._output

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def get_type_name(self) -> str:
        """The kind of the filesystem below."""
        name: str = self._inner.type_name
        return name

    def normalize_path(self, path: str) -> str:
        """As the filesystem below."""
        normalized: str = self._inner.normalize_path(path)
        return normalized

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        """As the filesystem below; Ray's marker of a folder that can be written is always there."""
        return [
            pafs.FileInfo(path, pafs.FileType.File, size=0) if _is_marker(path) else self._inner.get_file_info(path)
            for path in paths
        ]

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        """As the filesystem below."""
        infos: list[pafs.FileInfo] = self._inner.get_file_info(selector)
        return infos

    def open_input_stream(self, path: str) -> pa.NativeFile:
        """As the filesystem below."""
        return self._inner.open_input_stream(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        """As the filesystem below."""
        return self._inner.open_input_file(path)

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing: our files make their folders."""

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        """A file for Ray's list, or one that leaves nothing for its marker."""
        if _is_marker(path):
            return pa.PythonFile(io.BytesIO(), "w")
        if path.rsplit("/", 1)[-1] != CHECKPOINT_MANAGER_SNAPSHOT_FILENAME:
            raise _refusal(path)
        return pa.PythonFile(_ListFile(self._write), "w")

    def _write(self, content: bytes) -> None:
        try:
            listed = _without(json.loads(content), _finished(self._output))
            entries = {key: value for key, value in listed.items() if key != "current_report_index"}
            if entries == self._written or not (listed["checkpoint_results"] or self._written):
                return  # the checkpoint that was reported could not be written
            location = uris.join(self._output, _FOLDER, CHECKPOINT_MANAGER_SNAPSHOT_FILENAME)
            storage.write_bytes(location, json.dumps(listed).encode())
            self._written = entries
        except MPCError as error:
            console.warn(f"Ray's list of checkpoints could not be written: {error}")

    def delete_dir(self, path: str) -> None:
        """Refused."""
        raise _refusal(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool) -> None:
        """Refused."""
        raise _refusal(path)

    def delete_root_dir_contents(self) -> None:
        """Refused."""
        raise _refusal("")

    def delete_file(self, path: str) -> None:
        """Refused."""
        raise _refusal(path)

    def move(self, source: str, target: str) -> None:
        """Refused."""
        raise _refusal(source)

    def copy_file(self, source: str, target: str) -> None:
        """Refused."""
        raise _refusal(target)

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        """Refused."""
        raise _refusal(path)


class _ListFile(io.BytesIO):
    """Gives its content to `write` when it is closed."""

    def __init__(self, write: Any) -> None:
        super().__init__()
        self._write_all = write

    def close(self) -> None:
        if not self.closed:
            self._write_all(self.getvalue())
        super().close()


def _is_marker(path: str) -> bool:
    return path.rsplit("/", 1)[-1] == VALIDATE_STORAGE_MARKER_FILENAME


def _refusal(path: str) -> OSError:
    return OSError(f"{path} is of an output, which Ray Train does not change")
