"""All row groups of a split, scored by workers and stored: those that are missing, in this process or by a pool."""

from collections.abc import Iterator

import pyarrow as pa

from pipelines.inference import score_store
from pipelines.inference.job import in_process
from pipelines.inference.score_store import DONE
from pipelines.inference.split_scorer import ScoreJob
from pipelines.runtime import console, device

_GPU_GROUPS = 16
"""Row groups of one task of Ray Data, where workers have a GPU: the stages of a worker run empty at its end."""
FEW_SAMPLES = 64
"""Samples that are scored in this process, at most: to start Ray takes ten seconds of a processor."""


def score(job: ScoreJob, groups: int, resumed: bool) -> dict[int, str]:
    """Where the scores of each row group are: those that were stored, and those made now."""
    output, samples = str(job.settings.output), job.manifest.splits[job.settings.split].samples
    stored = score_store.stored(output, job.key, job.scorer.schema) if resumed else DONE.empty_table()
    files, counts = dict[int, str](), dict[int, int]()

    def note(done: pa.Table) -> None:
        for row in done.to_pylist():
            files[row["group"]], counts[row["group"]] = row["location"], row["images"]

    note(stored)
    if files:
        console.say(f"evaluate: {sum(counts.values())} of {samples} images are scored already")
    progress = console.Progress("evaluate", samples, "images", done=sum(counts.values()))
    missing = [group for group in range(groups) if group not in files]
    for done in _score_missing(job, missing, samples - progress.done, resumed) if missing else ():
        note(done)
        progress.advance(sum(done["images"].to_pylist()))
    return files


def _score_missing(job: ScoreJob, missing: list[int], samples: int, resumed: bool) -> Iterator[pa.Table]:
    """Where the rows of row groups that were not scored are (DONE): made in this process where their samples are few
    and it did not end an earlier try, else by a pool of workers."""
    settings = job.settings

    def tasks(together: int) -> list[pa.Table]:
        return [
            pa.table({"group": pa.array(missing[start : start + together], pa.int64())})
            for start in range(0, len(missing), together)
        ]

    is_few = samples <= FEW_SAMPLES and not resumed
    is_here = is_few and (settings.accelerator != "gpu" or device.is_gpu_here())
    if is_here if settings.workers == "auto" else settings.workers == 0:
        yield from in_process(job, tasks(1), settings)
        return
    from pipelines.inference import pool

    shape = pool.worker_shape(settings, job.verb)
    yield from pool.on_cluster(job, tasks(_GPU_GROUPS if shape.gpus else 1), settings, shape)
