"""Trials on Ray Tune: it decides when a trial runs and which are stopped early; what was found is kept elsewhere.

What Ray Tune remembers of a search is thrown away with it: the ledger (pipelines/search/space.py) and the trials' own
checkpoints are enough to go on after the driver was killed.
"""

import itertools
import os
import time
import uuid
from collections.abc import Mapping
from typing import Any

import ray
import ray.tune
from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from mpc_model.errors import UserError
from pipelines.artifacts import record as outputs
from pipelines.config.root import Config
from pipelines.runtime import cluster, console, lease, storage, uris
from pipelines.search import ledger, plots, report
from pipelines.search import space as search
from pipelines.search import trial as trials
from pipelines.search.ledger import Point, Trial
from pipelines.search.trial_runs import TrialRuns

SHOWN = 200
"""Letters of a failure's reason that are said; trials.csv has all of it."""
RETRIES = 1
"""Times that a trial is taken up again after the process that steers it was lost."""


def room_for(config: Config) -> tuple[int, dict[str, int]]:
    """Trials that the cluster has room for at a time, at least one, and what each needs of CPU and GPU.

    UserError where a cluster on this machine can never give that; a larger one may still grow.
    """
    cluster.connect()
    train, there = config.train, ray.cluster_resources()
    workers = max(1, train.worker_range[1])
    gpu = train.accelerator == "gpu" or (train.accelerator == "auto" and there.get("GPU", 0) >= workers)
    needed = {"CPU": workers * train.cpus_per_worker} | ({"GPU": workers} if gpu else {})
    room = min(int(there.get(name, 0) // count) for name, count in needed.items())
    if room < 1 and "RAY_ADDRESS" not in os.environ:
        wanted, found = (
            " and ".join(f"{amounts.get(name, 0):g} {name}" for name in needed) for amounts in (needed, there)
        )
        raise UserError(
            f"a trial needs {wanted}, there are {found}; lower train.workers or train.cpus_per_worker, or set"
            " RAY_ADDRESS to a larger cluster"
        )
    return max(1, room), needed


class Search:
    """One call's part of a search: the ledger, what Ray Tune asks for, and what it tells."""

    def __init__(
        self,
        config: Config,
        run_id: str,
        datasets: dict[str, str],
        functions: Mapping[str, trials.StageFunction],
        record: outputs.Record,
        held: lease.Lease,
    ) -> None:
        self.config, self.settings = config, config.tune
        self.runs = TrialRuns(config, run_id, datasets)
        self.datasets, self.functions, self.record, self.held = datasets, functions, record, held
        self.output = str(config.tune.output)
        self.trials = ledger.ledger(self.output)
        self.waiting = [trial for trial in self.trials if trial.state == "open"]
        self.by_id: dict[str, Trial] = {}
        self.groups: dict[int, str] = {}  # what holds the workers of a trial, by its number
        self.spent_before, self.started = float(record.results.get("seconds", 0.0)), time.monotonic()
        self.progress = console.Progress("tune", self.settings.trials, "trials", done=self.closed)

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray Tune keeps a copy of what it was given, for a kind of resuming that is not used here: an empty one."""
        return (object, ())

    @property
    def closed(self) -> int:
        """Trials that are done."""
        return sum(trial.state != "open" for trial in self.trials)

    @property
    def spent(self) -> bool:
        """Whether the budget of epochs or hours is used up."""
        epochs, hours = self.settings.epochs, self.settings.hours
        trained = sum(len(trial.curve) for trial in self.trials)
        return bool((epochs and trained >= epochs) or (hours and self.seconds >= hours * 3600))

    @property
    def seconds(self) -> float:
        """Seconds searched so far, in all calls together."""
        return self.spent_before + time.monotonic() - self.started

    def run(self) -> None:
        """All trials that are left. KeyboardInterrupt when the search was interrupted."""
        scratch = uris.join(self.output, "ray")
        filesystem, path = storage.resolve(scratch)
        room, needed = room_for(self.config)
        concurrent = self.settings.concurrent or room
        # With workers, it is they who take the resources, and what steers them none: a byte, since Ray wants something.
        own = needed if self.config.train.worker_range[1] == 0 else {"memory": 1}
        console.say(f"tune: {self.settings.algorithm}, {concurrent} trial{'s'[: concurrent != 1]} at a time")
        trainable = ray.tune.with_parameters(
            trials.train, base=self.config, datasets=self.datasets, functions=self.functions
        )
        try:
            tuner = Tuner(
                ray.tune.with_resources(trainable, ray.tune.PlacementGroupFactory([own])),
                tune_config=TuneConfig(
                    search_alg=_Asked(self),
                    scheduler=self._scheduler(),
                    num_samples=-1,
                    max_concurrent_trials=concurrent,
                    trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
                ),
                run_config=RunConfig(
                    name=uuid.uuid4().hex[:12],
                    storage_path=path,
                    storage_filesystem=filesystem,
                    failure_config=FailureConfig(max_failures=RETRIES),
                    callbacks=[_Told(self)],
                    stop=_Budget(self),
                    verbose=0,
                ),
            )
            tuner.fit()
        finally:
            storage.delete(scratch)
            self.runs.settle(self.trials)
            self.prune()
        if any(trial.state == "open" for trial in self.trials) and not self.spent:
            raise KeyboardInterrupt

    def _scheduler(self) -> TrialScheduler:
        if self.settings.algorithm == "random":
            return FIFOScheduler()
        total = sum(int(getattr(self.config, verb).epochs) for verb in trials.stages(self.config))
        # The last epoch decides nothing: a trial that came so far ends by itself, and exports its model.
        scheduler = ASHAScheduler(
            metric="figure",
            mode="max",
            max_t=max(self.settings.grace, total - 1),
            grace_period=self.settings.grace,
            reduction_factor=self.settings.reduction,
            stop_last_trials=False,
        )
        for trial in self.trials:
            if trial.state != "open":  # what an earlier call learnt
                stub: Any = _Stub(f"ledger-{trial.number}")
                scheduler.on_trial_add(None, stub)
                for count, point in enumerate(trial.curve, 1):
                    scheduler.on_trial_result(None, stub, {"training_iteration": count, "figure": point["figure"]})
        return scheduler

    def next(self, trial_id: str) -> Trial | None:
        """The trial to run next; None when the search is at its end."""
        self.held.check()
        if self.waiting:
            trial = self.waiting.pop(0)
        elif self.spent or (self.settings.trials is not None and len(self.trials) >= self.settings.trials):
            return None
        else:
            number = ledger.free(self.trials)
            trial = Trial(number, search.draw(self.settings, self.config.seed, number, self.trials))
            self.trials.append(trial)
        self.runs.begin(trial)
        trial.save(self.output)
        said = ", ".join(f"{key} {plots.short(value)}" for key, value in trial.parameters.items())
        console.say(f"tune: trial {trial.number} {'goes on' if trial.curve else 'begins'}: {said}")
        self.by_id[trial_id] = trial
        return trial

    def heard(self, trial: Trial, result: dict[str, Any]) -> None:
        """Keep the figures of an epoch."""
        self.groups[trial.number] = result.get("group", "")
        known = {(point["stage"], point["epoch"]) for point in trial.curve}
        if "figure" not in result or (result["stage"], result["epoch"]) in known:
            return
        stage, epoch, figure = result["stage"], result["epoch"], result["figure"]
        trial.curve.append(Point(stage=stage, epoch=epoch, figure=figure, train_loss=result["train_loss"]))
        trial.seconds += result.get("time_this_iter_s", 0.0)
        trial.save(self.output)
        self.record.results["seconds"] = self.seconds
        self.record.save()
        self.runs.report(trial)
        self.progress.advance(0, f"trial {trial.number}: {stage} epoch {epoch}, {figure:.3f}")

    def ended(self, trial: Trial, state: ledger.State, reason: str = "") -> None:
        """Close a trial."""
        trial.state, trial.reason = state, reason
        if state == "stopped" and self.groups.get(trial.number):
            # Ray Train frees them, too, but not where several clusters are on a machine: it asks which one is meant.
            cluster.free_group(self.groups[trial.number])
        trial.save(self.output)
        self.runs.end(trial)
        self.prune()
        count = len(trial.curve)
        told = f"{trial.figure:.3f} after {count} epoch{'s'[: count != 1]}" if trial.figure is not None else "no epoch"
        console.say(f"tune: trial {trial.number} {state}: {told}{': ' if reason else ''}{reason[:SHOWN]}")
        self.progress.advance(self.closed - self.progress.done)

    def prune(self) -> None:
        """Delete the weights of all closed trials but the best."""
        kept = report.ranked(self.trials)[: self.settings.keep]
        for trial in self.trials:
            if trial.state != "open" and trial not in kept:
                for verb, folder in itertools.product(trials.VERBS, ("checkpoints", "model")):
                    storage.delete(uris.join(trial.folder(self.output), verb, folder))


class _Stub:
    """What ASHA wants of a trial that an earlier call ended."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


class _Asked(Searcher):
    """Ray Tune asks here for trials."""

    def __init__(self, search: Search) -> None:
        super().__init__(metric="figure", mode="max")
        self._search = search

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The number of the next trial: everything else is in the ledger."""
        found = self._search.next(trial_id)
        return {"number": found.number} if found else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The ledger has it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger has it."""


class _Told(ray.tune.Callback):
    """Ray Tune tells here what became of trials."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch of a trial, or its last word."""
        self._search.heard(self._search.by_id[trial.trial_id], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended by itself, or was stopped."""
        found, last = self._search.by_id[trial.trial_id], trial.last_result
        if last.get("failed"):
            self._search.ended(found, "failed", last["failed"])
        elif last.get("ended"):
            self._search.ended(found, "finished")
        elif not self._search.spent:  # else it is open, and goes on should the budget grow
            self._search.ended(found, "stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial was lost more than RETRIES times."""
        lines = str(trial.get_error()).strip().splitlines()
        self._search.ended(self._search.by_id[trial.trial_id], "failed", lines[-1][:300])


class _Budget(Stopper):
    """Ends the search when its budget is spent."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped for itself."""
        return False

    def stop_all(self) -> bool:
        """Asked by Ray Tune after every result."""
        return self._search.spent
