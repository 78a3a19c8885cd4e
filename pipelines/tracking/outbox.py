"""What training reports to MLflow, sent by a thread of its own: a server that is slow or away never holds up a step.

Reports are sent in order, each with the time at which it was made. MLflow keeps one point for a run, key, step, time
and value, so a report that is sent twice, because the answer was lost, is kept once. What waits is stored before each
checkpoint (`store`). A run that was killed reports what came after its checkpoint again, and what MLflow or the file
already has of that is left out. So no metric is lost, and none is there twice.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto

from mpc_model.errors import MPCError
from pipelines.config.root import Config
from pipelines.runtime import console, environment, host, storage, uris
from pipelines.runtime.retry import Backoff
from pipelines.tracking import reports, runs, watchdog
from pipelines.tracking.reports import End, Metrics, Picture, Report, Tags, UnsentFile

BACKOFF = Backoff(environment.REPORTS_FIRST_PAUSE_SECONDS, environment.REPORTS_LONGEST_PAUSE_SECONDS)
"""Between attempts to reach a server that does not answer."""
END_SECONDS, HURRY_SECONDS = environment.REPORTS_END_SECONDS, environment.REPORTS_HURRY_SECONDS
"""How long the end of a command waits until all is sent; of a command that failed or was interrupted."""
LIMIT = 100_000
"""Reports that may wait (about 100 MB; one is made every ten steps). Older ones are given up, which is said."""


class State(Enum):
    """What an outbox does: OPEN -> CLOSING -> CLOSED."""

    OPEN = auto()
    """It takes reports and sends them, however long that takes."""
    CLOSING = auto()
    """It sends what waits, until the deadline of `close`."""
    CLOSED = auto()
    """It sends nothing more. A request that is under way may still be answered, but changes nothing here."""


class Outbox:
    """The reports of a verb's run, with those that an earlier process left.

    `check` raises where another job took the output over: then nothing is sent any more. `goes_on` is whether the run
    is trained further: how an earlier process ended it is then not sent.
    """

    def __init__(
        self, config: Config, verb: str, run_id: str, check: Callable[[], None] = lambda: None, goes_on: bool = True
    ) -> None:
        output = str(getattr(config, verb).output)
        self._verb, self._check = verb, check
        self._writer, self._file = RunWriter(config, output, run_id), UnsentFile(unsent(output))
        self._waiting = deque(report for report in self._file.read() if not (goes_on and "status" in report))
        self._last_steps: dict[str, int] = {}
        for report in self._waiting:
            self._last_steps |= reports.last_steps(report)
        self._state, self._deadline, self._dropped = State.OPEN, math.inf, 0
        self.failing = False
        """Whether the last attempt to reach MLflow failed."""
        self._changed = threading.Condition()  # guards the state and what waits
        self._storing = threading.Lock()
        self._ended = threading.Event()  # of the thread: Python takes a thread for ended whose `join` is interrupted
        threading.Thread(target=self._run, name="tracking", daemon=True).start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Report the metrics of a step (`<kind>/<name>`), unless a kind among them was reported that far before."""
        report = Metrics(step=step, time=runs.now(), metrics={key: float(value) for key, value in metrics.items()})
        if reports.is_new(report, self._last_steps):
            self._last_steps |= reports.last_steps(report)
            self._put(report)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Report tags of the run."""
        self._put(Tags(tags=dict(tags)))

    def picture(self, name: str) -> None:
        """Report a file of the output (`pictures/...`) as an artifact."""
        self._put(Picture(picture=name))

    def store(self) -> None:
        """Write what waits to the output, so that it is not lost with this process."""
        with self._storing:
            with self._changed:
                waiting = list(self._waiting)
            self._file.write(waiting)

    def close(self, seconds: float = END_SECONDS, status: str | None = None) -> int:
        """Wait until all is sent, for so long at most, and store what is left. Returns how many reports that is.

        `status` is how the run ended, FINISHED, FAILED or KILLED; it is the last report.
        """
        try:
            if status:
                self._put(End(status=status, time=runs.now()))
            self._set_state(State.CLOSING, time.monotonic() + seconds)
            self._ended.wait(seconds)
        except KeyboardInterrupt:  # wait for the request under way: it must not arrive after the next one, KILLED
            self._set_state(State.CLOSED)
            self._ended.wait(HURRY_SECONDS)
            raise
        finally:
            self._set_state(State.CLOSED)
            with suppress(MPCError):  # storage that fails also fails what else is written
                self._check()
                self.store()
        return len(self._waiting)

    def _set_state(self, state: State, deadline: float = math.inf) -> None:
        with self._changed:
            self._state, self._deadline = state, deadline
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
        pauses = BACKOFF.pauses()
        while batch := self._next_batch():
            try:
                self._check()
            except MPCError:  # the output is another job's now, and so is the run
                self._waiting.clear()
                return
            try:
                self._writer.send(batch)
            except MPCError as error:
                if not self.failing and self._state is not State.CLOSED:
                    console.warn(f"{self._verb}: {error}; its reports are kept and sent later")
                self.failing = True
                if self._wait_for_change(next(pauses)):
                    pauses = BACKOFF.pauses()
            else:
                pauses = BACKOFF.pauses()
                self._remove(batch)

    def _next_batch(self) -> list[Report]:
        """The reports of the next request, once there are some; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._state is not State.OPEN)
            if self._state is State.CLOSED or time.monotonic() > self._deadline:
                return []
            return reports.next_batch(self._waiting)

    def _wait_for_change(self, seconds: float) -> bool:
        """Wait before the next attempt. True when a change of the state cut it short."""
        with self._changed:
            before = self._state
            return self._changed.wait_for(lambda: self._state is not before, seconds)

    def _remove(self, sent: list[Report]) -> None:
        """Take what was sent off what waits. When nothing waits any more the file is deleted."""
        with self._changed:
            if self._state is State.CLOSED:
                return
            for report in sent:
                if self._waiting and self._waiting[0] is report:  # else it was given up meanwhile
                    self._waiting.popleft()
            if self._waiting:
                return
        with suppress(MPCError):  # reports that stay in the file are left out by their steps
            self.store()
        if self.failing:
            self.failing = False
            lost = f"; {self._dropped} older ones were lost" if self._dropped else ""
            console.say(f"{self._verb}: MLflow answers again and has every report that waited{lost}")


class RunWriter:
    """Brings reports to one MLflow run. MPCError where MLflow fails."""

    def __init__(self, config: Config, output: str, run_id: str) -> None:
        self._config, self._output, self._run_id = config, output, run_id
        self._steps: dict[str, int] | None = None  # the last step of each kind that MLflow had before the first request

    def send(self, batch: Sequence[Report]) -> None:
        """One request with a batch of `reports.next_batch`. Metrics of steps that MLflow has are left out."""
        first = batch[0]
        if "picture" in first:
            file = uris.join(self._output, first["picture"])
            if storage.exists(file):
                runs.log_file(self._config, self._run_id, first["picture"], storage.read_bytes(file))
        elif "tags" in first:
            runs.tag(self._config, self._run_id, first["tags"])
        elif "status" in first:
            runs.finish(self._config, self._run_id, first["status"], first["time"])
        else:
            if self._steps is None:
                self._steps = runs.last_steps(self._config, self._run_id)
            points = [
                (report["step"], report["time"], report["metrics"])
                for report in batch
                if "metrics" in report and reports.is_new(report, self._steps)
            ]
            runs.log_points(self._config, self._run_id, points)


def unsent(output: str) -> str:
    """The file of an output with the reports that MLflow does not have."""
    return uris.join(output, "tracking", "unsent.json")


@contextmanager
def opened(config: Config, verb: str, run_id: str, check: Callable[[], None] = lambda: None) -> Iterator[Outbox]:
    """The outbox of a run while the block reports to it. What is left at the end is stored, for `finish` to send."""
    outbox = Outbox(config, verb, run_id, check)
    outbox.tag(host.hardware())  # of the machine that trains, which need not be the driver's
    try:
        yield outbox
    except BaseException:
        outbox.close(HURRY_SECONDS)
        raise
    outbox.close(HURRY_SECONDS if outbox.failing else END_SECONDS)


def finish(
    config: Config, verb: str, run_id: str, status: str | None = None, check: Callable[[], None] = lambda: None
) -> None:
    """Send what is left, and how the run ended. Where MLflow does not answer, that is stored and said: no error."""
    output = str(getattr(config, verb).output)
    with suppress(MPCError):
        if not status and not storage.exists(unsent(output)):
            return
        outbox = Outbox(config, verb, run_id, check, goes_on=status is not None)
        left = outbox.close(END_SECONDS if status in (None, "FINISHED") else HURRY_SECONDS, status)
        watchdog.leave(run_id)
        if left:
            console.warn(
                f"{verb}: MLflow at {uris.without_secrets(str(config.tracking.uri))} has not taken {left} reports;"
                f" they are kept in {unsent(output)}; run the same command again to send them"
            )
