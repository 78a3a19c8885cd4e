"""What training tells MLflow, sent by a thread of its own: a server that is slow or away never holds a step up.

    <output>/tracking/unsent.json   reports that MLflow has not taken yet; the file is there only while there are some

Reports go out in order, each with the time at which it was made. MLflow keeps one point for a run, key, step, time and
value, so a report that is sent twice, because its answer was lost, is kept once. What waits is stored before each
checkpoint (`keep`): a run that is killed reports what came after its checkpoint anew, and what MLflow or the file
already has of that is left out. So no figure is lost, and none is there twice.
"""

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from mpc_model.errors import MPCError, UserError
from pipelines.config.root import Config
from pipelines.runtime import console, host, storage, uris
from pipelines.tracking import runs, watchdog

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between attempts to reach a server that is away: doubled each time."""
END_SECONDS, HURRY_SECONDS = 30.0, 5.0
"""How long the end of a command waits for what is left to be sent; of one that failed or was interrupted."""
LIMIT = 100_000
"""Reports that may wait (about 100 MB; one is made every ten steps): older ones are given up, which is said."""
_REQUEST_METRICS = 1000
"""MLflow takes no more in one request."""

Report = dict[str, Any]
"""`{"step", "time" (ms), "metrics"}`, `{"tags"}`, `{"picture"}` (name below the output) or `{"status", "time"}`."""


class Spool:
    """The reports of a verb's run, with those that an earlier process left, but for how it ended if it goes on now.

    `check` raises where another job took the output over: then nothing is sent any more.
    """

    def __init__(
        self, config: Config, verb: str, run_id: str, check: Callable[[], None] = lambda: None, goes_on: bool = True
    ) -> None:
        self._config, self._verb, self._run_id, self._check = config, verb, run_id, check
        self._output = str(getattr(config, verb).output)
        self._file = unsent(self._output)
        left = _read(self._file)
        self._kept = bool(left)  # whether the file is there
        self._waiting: deque[Report] = deque(one for one in left if not (goes_on and "status" in one))
        self._last = {kind: step for report in self._waiting for kind, step in _marks(report)}
        self._taken: dict[str, int] | None = None  # the last step of each kind that MLflow has, once it was asked
        self._deadline, self._closed, self._dropped = math.inf, False, 0
        self.failing = False
        """Whether the last attempt to reach MLflow failed."""
        self._changed, self._storing = threading.Condition(), threading.Lock()
        self._ended = threading.Event()  # Python takes a thread for ended whose `join` is interrupted
        threading.Thread(target=self._run, name="tracking", daemon=True).start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Report the metrics of a step (`<kind>/<name>`), unless a kind among them was reported that far before."""
        report = {
            "step": step,
            "time": runs.now(),
            "metrics": {key: float(value) for key, value in metrics.items()},
        }
        marks = _marks(report)
        if all(step > self._last.get(kind, -1) for kind, _ in marks):
            self._last.update(marks)
            self._put(report)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Report tags of the run."""
        self._put({"tags": dict(tags)})

    def picture(self, name: str) -> None:
        """Report a file of the output (`pictures/...`) as an artifact."""
        self._put({"picture": name})

    def keep(self) -> None:
        """Store what waits, so that it outlives this process; a file that is no longer needed is deleted."""
        with self._storing:
            waiting = list(self._waiting)
            if waiting:
                storage.write_bytes(self._file, json.dumps(waiting).encode())
            elif self._kept:
                storage.delete(self._file)
            self._kept = bool(waiting)

    def close(self, seconds: float = END_SECONDS, status: str | None = None) -> int:
        """Wait until all is sent, for so long at most, and keep what is left. Returns how many reports that is.

        `status` is how the run ended, FINISHED, FAILED or KILLED, which is the last report.
        """
        try:
            if status:
                self._put({"status": status, "time": runs.now()})
            with self._changed:
                self._deadline = time.monotonic() + seconds
                self._changed.notify_all()
            self._ended.wait(seconds)
        except KeyboardInterrupt:  # what is under way should not arrive after what is said next: that it was killed
            self._over()
            self._ended.wait(HURRY_SECONDS)
            raise
        finally:
            self._over()
            with suppress(MPCError):  # storage that fails is told of by what else is written
                self._check()
                self.keep()
        return len(self._waiting)

    def _over(self) -> None:
        with self._changed:  # a request that hangs may still come back: it changes nothing any more
            self._closed = True
            self._changed.notify_all()

    def _put(self, report: Report) -> None:
        with self._changed:
            self._waiting.append(report)
            if len(self._waiting) > LIMIT:
                self._waiting.popleft()
                self._dropped += 1
            self._changed.notify_all()

    # What the thread does.

    def _run(self) -> None:
        try:
            self._deliver()
        finally:
            self._ended.set()

    def _deliver(self) -> None:
        pause = FIRST_PAUSE
        while batch := self._next():
            try:
                self._check()
            except MPCError:  # the output is another job's now, and so is the run
                self._waiting.clear()
                return
            try:
                self._send(batch)
            except MPCError as error:
                if not self.failing and not self._closed:
                    console.warn(f"{self._verb}: {error}; its reports are kept and sent later")
                self.failing = True
                pause = FIRST_PAUSE if self._sleep(pause) else min(2 * pause, LONGEST_PAUSE)
            else:
                pause = FIRST_PAUSE
                self._done(batch)

    def _sleep(self, seconds: float) -> bool:
        """Wait between two attempts. True when `close` cut it short."""
        with self._changed:
            before = self._deadline
            return self._changed.wait_for(lambda: self._closed or self._deadline != before, seconds)

    def _next(self) -> list[Report]:
        """What goes into the next request: metrics of several steps, or one other report; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._deadline < math.inf)
            if self._closed or time.monotonic() > self._deadline:
                return []
            batch, room = list[Report](), _REQUEST_METRICS
            for report in self._waiting:
                room -= len(report.get("metrics", ()))
                if batch and ("metrics" not in report or room < 0):
                    break
                batch.append(report)
                if "metrics" not in report:
                    break
            return batch

    def _send(self, batch: list[Report]) -> None:
        first = batch[0]
        if "picture" in first:
            where = uris.join(self._output, first["picture"])
            if storage.exists(where):
                runs.log_picture(self._config, self._run_id, first["picture"], storage.read_bytes(where))
        elif "tags" in first:
            runs.tag(self._config, self._run_id, first["tags"])
        elif "status" in first:
            runs.finish(self._config, self._run_id, first["status"], first["time"])
        else:
            if self._taken is None:
                self._taken = runs.last_steps(self._config, self._run_id)
            new = [one for one in batch if all(step > self._taken.get(kind, -1) for kind, step in _marks(one))]
            runs.log_points(self._config, self._run_id, [(one["step"], one["time"], one["metrics"]) for one in new])

    def _done(self, batch: list[Report]) -> None:
        with self._changed:
            if self._closed:
                return
            for report in batch:
                if self._waiting and self._waiting[0] is report:  # else it was given up meanwhile
                    self._waiting.popleft()
            if self._waiting:
                return
        if self._kept:
            with suppress(MPCError):  # reports that are found there again are known by their steps
                self.keep()
        if self.failing:
            self.failing = False
            lost = f"; {self._dropped} older ones were lost" if self._dropped else ""
            console.say(f"{self._verb}: MLflow answers again and has every report that waited{lost}")


def unsent(output: str) -> str:
    """Where the reports of an output are that MLflow has not taken yet."""
    return uris.join(output, "tracking", "unsent.json")


@contextmanager
def opened(config: Config, verb: str, run_id: str, check: Callable[[], None] = lambda: None) -> Iterator[Spool]:
    """The spool of a run while the block reports to it. What is left at the end is kept, for `finish` to send."""
    spool = Spool(config, verb, run_id, check)
    spool.tag(host.hardware())  # of the machine that trains, which the driver's need not be
    try:
        yield spool
    except BaseException:
        spool.close(HURRY_SECONDS)
        raise
    spool.close(HURRY_SECONDS if spool.failing else END_SECONDS)


def finish(
    config: Config, verb: str, run_id: str, status: str | None = None, check: Callable[[], None] = lambda: None
) -> None:
    """Send what was left, and how the run ended. Where MLflow is away, it is kept and said: this raises nothing."""
    output = str(getattr(config, verb).output)
    with suppress(MPCError):
        if not status and not storage.exists(unsent(output)):
            return
        spool = Spool(config, verb, run_id, check, goes_on=status is not None)
        left = spool.close(END_SECONDS if status in (None, "FINISHED") else HURRY_SECONDS, status)
        watchdog.leave(run_id)
        if left:
            console.warn(
                f"{verb}: MLflow at {uris.without_secrets(str(config.tracking.uri))} has not taken {left} reports;"
                f" they are kept in {unsent(output)}; run the same command again to send them"
            )


def _read(file: str) -> list[Report]:
    if not storage.exists(file):
        return []
    try:
        return list(json.loads(storage.read_bytes(file)))
    except ValueError:
        raise UserError(f"{file} is damaged; delete it, and run the command again") from None


def _marks(report: Report) -> list[tuple[str, int]]:
    """The kinds of metrics (train, validation) in a report, each with its step."""
    return [(kind, report["step"]) for kind in sorted({key.partition("/")[0] for key in report.get("metrics", ())})]
