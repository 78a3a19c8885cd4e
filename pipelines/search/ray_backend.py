"""A search on Ray Tune, which decides when a trial runs and which trials are stopped early.

What Ray Tune writes of a search is deleted with it: the ledger (ledger.py) and the trials' own checkpoints are enough
to go on after the driver was killed.
"""

import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

import ray
import ray.tune
from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from mpc_model.errors import UserError
from pipelines.config.root import Config
from pipelines.runtime import cluster, console, device, environment, storage, uris
from pipelines.search.driver import Search
from pipelines.search.ledger import Point, Trial
from pipelines.search.trial import Request, StageFunction, stages, train

RETRIES = 1
"""Times that a trial is taken up again after its process was lost."""


class Capacity(NamedTuple):
    """How many trials a cluster runs at a time, and what each needs of CPU and GPU."""

    trials: int
    resources: dict[str, int]


def trial_capacity(config: Config) -> Capacity:
    """The capacity of the cluster, at least one trial.

    UserError where a cluster on this machine is too small for one; a larger one may still grow.
    """
    cluster.connect()
    settings, available = config.train, ray.cluster_resources()
    workers = max(1, settings.worker_range[1])
    per_worker = device.worker_resources(settings.accelerator, workers, settings.cpus_per_worker, available)
    needed = {name: workers * count for name, count in per_worker.items()}
    capacity = min(int(available.get(name, 0) // count) for name, count in needed.items())
    if capacity < 1 and not environment.cluster_address():
        wanted, existing = (
            " and ".join(f"{amounts.get(name, 0):g} {name}" for name in needed) for amounts in (needed, available)
        )
        raise UserError(
            f"a trial needs {wanted}, there are {existing}; lower train.workers or train.cpus_per_worker, or set"
            " RAY_ADDRESS to a larger cluster"
        )
    return Capacity(max(1, capacity), needed)


def run(search: Search, datasets: Mapping[str, str], functions: Mapping[str, StageFunction]) -> None:
    """Run all trials that are left. KeyboardInterrupt when the search was interrupted."""
    config = search.config
    scratch = uris.join(search.output, "ray")
    filesystem, path = storage.resolve(scratch)
    capacity = trial_capacity(config)
    concurrent = config.tune.concurrent or capacity.trials
    # With workers, the workers take the resources. The trial's process takes one byte, since Ray needs a value.
    resources = capacity.resources if config.train.worker_range[1] == 0 else {"memory": 1}
    console.say(f"tune: {config.tune.algorithm}, trials at a time: {concurrent}")
    trainable = ray.tune.with_parameters(train, base=config, datasets=datasets, functions=functions)
    try:
        Tuner(
            ray.tune.with_resources(trainable, ray.tune.PlacementGroupFactory([resources])),
            tune_config=TuneConfig(
                search_alg=LedgerSearcher(search),
                scheduler=scheduler(config, search.trials),
                num_samples=-1,
                max_concurrent_trials=concurrent,
                trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
            ),
            run_config=RunConfig(
                name=uuid.uuid4().hex[:12],
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(max_failures=RETRIES),
                callbacks=[LedgerCallback(search)],
                stop=BudgetStopper(search),
                verbose=0,
            ),
        ).fit()
    finally:
        storage.delete(scratch)
        search.settle()
    if not search.is_over:
        raise KeyboardInterrupt


def scheduler(config: Config, earlier: list[Trial]) -> TrialScheduler:
    """The scheduler that stops poor trials early, which knows the closed trials of earlier calls."""
    settings = config.tune
    if settings.algorithm == "random":
        return FIFOScheduler()
    epochs = sum(int(getattr(config, verb).epochs) for verb in stages(config))
    asha = ASHAScheduler(
        metric="figure",
        mode="max",
        # Nothing is decided at the last epoch: a trial that came so far ends by itself, and exports its model.
        max_t=max(settings.grace, epochs - 1),
        grace_period=settings.grace,
        reduction_factor=settings.reduction,
        stop_last_trials=False,
    )
    for trial in earlier:
        if trial.state != "open":
            replayed: Any = _EarlierTrial(f"ledger-{trial.number}")
            asha.on_trial_add(None, replayed)
            for count, point in enumerate(trial.curve, 1):
                asha.on_trial_result(None, replayed, {"training_iteration": count, "figure": point["figure"]})
    return asha


class _EarlierTrial(NamedTuple):
    """All that ASHA reads of a trial that an earlier call closed."""

    trial_id: str


class _WithoutState:
    """Ray Tune pickles what it was given, for a kind of resuming that is not used here: the search is left out.

    A `Search` holds a lease with its thread, which cannot be pickled.
    """

    def __init__(self, search: Search) -> None:
        self._search = search

    def __getstate__(self) -> dict[str, Any]:
        return {}


class LedgerSearcher(_WithoutState, Searcher):
    """Gives Ray Tune the next trial. A suggestion is the trial's number: everything else is in the ledger."""

    def __init__(self, search: Search) -> None:
        Searcher.__init__(self, metric="figure", mode="max")
        _WithoutState.__init__(self, search)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial, or FINISHED."""
        trial = self._search.suggest()
        return {**Request(number=trial.number)} if trial else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the ledger has it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger has it."""


class LedgerCallback(_WithoutState, ray.tune.Callback):
    """Writes what Ray Tune says of trials to the ledger."""

    def __init__(self, search: Search) -> None:
        super().__init__(search)
        self._groups: dict[int, str] = {}  # the placement group of a trial's workers, by its number

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch of a trial, or its last report, which holds no metric."""
        number = trial.config["number"]
        self._groups[number] = result.get("group", "")
        if "figure" in result:
            point = Point(
                stage=result["stage"],
                epoch=result["epoch"],
                figure=result["figure"],
                train_loss=result["train_loss"],
            )
            self._search.on_epoch_end(self._search.trial(number), point, result.get("time_this_iter_s", 0.0))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended by itself, or was stopped."""
        number, last = trial.config["number"], trial.last_result
        ended = self._search.trial(number)
        if last.get("failed"):
            self._search.close_trial(ended, "failed", last["failed"])
        elif last.get("ended"):
            self._search.close_trial(ended, "finished")
        elif not self._search.is_spent:  # else it stays open, and goes on should the budget grow
            if self._groups.get(number):
                # Ray Train frees the workers, too, but not where several clusters run on this machine.
                cluster.free_group(self._groups[number])
            self._search.close_trial(ended, "stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The process of a trial was lost more than RETRIES times."""
        lines = str(trial.get_error()).strip().splitlines()
        self._search.close_trial(self._search.trial(trial.config["number"]), "failed", lines[-1][:300])


class BudgetStopper(_WithoutState, Stopper):
    """Ends the search when its budget is spent."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped by it."""
        return False

    def stop_all(self) -> bool:
        """Called by Ray Tune after every result."""
        return self._search.is_spent
