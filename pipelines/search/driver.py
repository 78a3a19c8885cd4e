"""The state of a search while it runs: which trial comes next, what each has reached, and when the budget is spent.

Nothing here knows Ray Tune: ray_backend.py asks a `Search` for trials and tells it what became of them.
"""

import itertools
import time
from collections.abc import Mapping

from pipelines.artifacts.record import Record
from pipelines.config.root import Config
from pipelines.runtime import console, storage, uris
from pipelines.runtime.lease import Lease
from pipelines.search import ledger, plots, report, space
from pipelines.search.ledger import Point, Trial
from pipelines.search.trial import VERBS, metric_column
from pipelines.search.trial_runs import TrialRuns

SHOWN = 200
"""Characters of a failure's reason that are printed; trials.csv has all of it."""


class Search:
    """One call's part of a search. Everything that must outlive the call is in the ledger and the record."""

    def __init__(self, config: Config, run_id: str, datasets: Mapping[str, str], record: Record, lease: Lease) -> None:
        self.config, self.settings, self.output = config, config.tune, str(config.tune.output)
        self.runs = TrialRuns(config, run_id, datasets)
        self.trials = ledger.read_all(self.output)
        self._record, self._lease = record, lease
        self._warned = set[str]()
        self._unfinished = [trial for trial in self.trials if trial.state == "open"]
        self._seconds_before, self._started = float(record.results.get("seconds", 0.0)), time.monotonic()
        self._progress = console.Progress("tune", self.settings.trials, "trials", done=self._closed)

    @property
    def _closed(self) -> int:
        """Trials that are done."""
        return sum(trial.state != "open" for trial in self.trials)

    @property
    def seconds(self) -> float:
        """Seconds searched so far, in all calls together."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def is_spent(self) -> bool:
        """Whether the budget of epochs or hours is used up."""
        epochs, hours = self.settings.epochs, self.settings.hours
        trained = sum(len(trial.curve) for trial in self.trials)
        return bool((epochs and trained >= epochs) or (hours and self.seconds >= hours * 3600))

    @property
    def is_over(self) -> bool:
        """Whether no trial is open, or none may go on."""
        return self.is_spent or all(trial.state != "open" for trial in self.trials)

    def trial(self, number: int) -> Trial:
        """The trial with a number."""
        return next(trial for trial in self.trials if trial.number == number)

    def suggest(self) -> Trial | None:
        """The trial to run next, with its MLflow run: an unfinished one, or a new one; None at the search's end."""
        self._lease.check()
        if self._unfinished:
            trial = self._unfinished.pop(0)
        elif self.is_spent or (self.settings.trials is not None and len(self.trials) >= self.settings.trials):
            return None
        else:
            number = ledger.next_number(self.trials)
            parameters = space.draw(self.settings, self.config.seed, number, self.trials)
            if parameters is None:  # the grid is done
                return None
            trial = Trial(number, parameters)
            self.trials.append(trial)
        self.runs.begin(trial)
        trial.save(self.output)
        values = ", ".join(f"{key} {plots.short(value)}" for key, value in trial.parameters.items())
        console.say(f"tune: trial {trial.number} {'goes on' if trial.curve else 'begins'}: {values}")
        return trial

    def on_warning(self, number: int, text: str) -> None:
        """Say what a trial warned of; what another trial warned of before is not said again."""
        if text not in self._warned:
            self._warned.add(text)
            console.warn(f"tune: trial {number}: {text}")

    def on_epoch_end(self, trial: Trial, point: Point, seconds: float) -> None:
        """Store the metrics of an epoch and the `seconds` that it took. A stored epoch does not change."""
        if (point["stage"], point["epoch"]) in {(known["stage"], known["epoch"]) for known in trial.curve}:
            return
        trial.curve.append(point)
        trial.seconds += seconds
        trial.save(self.output)
        self._record.results["seconds"] = self.seconds
        self._record.save()
        self.runs.report(trial)
        reached = f"{metric_column(self.config, point['stage'])} {point['figure']:.3f}"
        note = f"trial {trial.number}: {point['stage']} epoch {point['epoch']}, {reached}"
        self._progress.advance(0, note)

    def close_trial(self, trial: Trial, state: ledger.State, reason: str = "") -> None:
        """Store how a trial ended, end its MLflow runs, and delete the weights that are no longer among the best."""
        trial.state, trial.reason = state, reason
        trial.save(self.output)
        self.runs.end(trial)
        self.prune()
        reached = "no epoch"
        if trial.metric is not None:
            metric = metric_column(self.config, trial.curve[-1]["stage"])
            reached = f"{metric} {trial.metric:.3f}, epochs trained {len(trial.curve)}"
        console.say(f"tune: trial {trial.number} {state}: {reached}{': ' if reason else ''}{reason[:SHOWN]}")
        self._progress.advance(self._closed - self._progress.done)

    def prune(self) -> None:
        """Delete the weights of all closed trials but the best."""
        best = report.ranked(self.trials)[: self.settings.keep]
        for trial in self.trials:
            if trial.state != "open" and trial not in best:
                for verb, folder in itertools.product(VERBS, ("checkpoints", "model")):
                    storage.delete(uris.join(trial.folder(self.output), verb, folder))

    def settle(self) -> None:
        """At the end of the call: send MLflow what it lacks, end the runs, delete what is not among the best."""
        self.runs.settle(self.trials)
        self.prune()
