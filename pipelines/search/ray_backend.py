"""A search on Ray Tune, which decides when a trial runs and which trials are stopped early.

    <tune.output>/ray/                     Ray Tune's experiment: its state, and a folder for each trial
    <tune.output>/ray/0007/result.json     the reports of a trial; events.out.tfevents... for TensorBoard

To go on after the driver was killed the ledger (ledger.py) and the trials' own checkpoints are enough. What Ray Tune
writes is for people, and for `ExperimentAnalysis`: a search does not read it, since it holds pickles.
"""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow.fs
import ray
import ray.tune
from ray.tune import ExperimentAnalysis, FailureConfig, ResultGrid, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial as RayTrial
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback
from ray.tune.search import ConcurrencyLimiter, Searcher, SearchGenerator
from ray.tune.stopper import Stopper

from mpc_model.errors import UserError
from pipelines.config.root import Config
from pipelines.runtime import cluster, console, device, environment, storage, uris
from pipelines.search import algorithms
from pipelines.search.algorithms import METRIC, MODE
from pipelines.search.driver import Search
from pipelines.search.ledger import Point
from pipelines.search.ledger_scheduler import ACTIVE, LedgerScheduler
from pipelines.search.trial import StageFunction, train, whole_epochs

NAME = "ray"
"""The experiment, a folder in the output of the search."""
RETRIES = 1
"""Times that a trial is taken up again after its process was lost."""


class Capacity(NamedTuple):
    """How many trials a cluster runs at a time, and what each, and each of its workers, needs of CPU and GPU."""

    trials: int
    resources: dict[str, float]
    worker: dict[str, float]


def trial_capacity(config: Config) -> Capacity:
    """The capacity of the cluster, at least one trial.

    UserError where a cluster on this machine is too small for one; a larger one may still grow.
    """
    cluster.connect()
    settings, available = config.train, ray.cluster_resources()
    workers = max(1, settings.worker_range[1])
    per_worker = device.worker_resources(
        settings.accelerator, workers, settings.cpus_per_worker, available, settings.gpus_per_worker
    )
    needed = {name: workers * count for name, count in per_worker.items()}
    capacity = min(_fitting(available.get(name, 0), count) for name, count in needed.items())
    if capacity < 1 and not environment.cluster_address():
        wanted, existing = (
            " and ".join(f"{amounts.get(name, 0):g} {name}" for name in needed) for amounts in (needed, available)
        )
        raise UserError(
            f"a trial needs {wanted}, there are {existing}; lower train.workers or train.cpus_per_worker, or set"
            " RAY_ADDRESS to a larger cluster"
        )
    return Capacity(max(1, capacity), needed, per_worker)


def _fitting(available: float, needed: float) -> int:
    """How many trials have room. A share of a GPU lies on one GPU: with .4 there are two trials on each."""
    return int(available) * int(1 / needed + 1e-9) if needed < 1 else int(available // needed)


def experiment(output: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Where Ray Tune's experiment of a search is: the filesystem, and the path in it."""
    return storage.resolve(uris.join(output, NAME))


def run(search: Search, datasets: Mapping[str, str], functions: Mapping[str, StageFunction]) -> ResultGrid:
    """Run all trials that are left, and return all trials of the search, those of earlier calls first.

    KeyboardInterrupt when the search was interrupted.
    """
    capacity = trial_capacity(search.config)
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it lists trials that failed, which the search says
    trainable = ray.tune.with_parameters(train, base=search.config, datasets=datasets, functions=functions)
    try:
        with cluster.capacity_watched(
            "tune", lambda: cluster.group_runs(capacity.worker), capacity.resources, search.config.train.machines
        ):
            grid = _tuner(search, capacity, trainable).fit()
    finally:
        search.settle()
    if not search.is_over:
        raise KeyboardInterrupt
    return grid


def _tuner(search: Search, capacity: Capacity, trainable: Any) -> Tuner:
    config = search.config
    settings, in_process = config.tune, config.train.worker_range[1] == 0
    epochs = whole_epochs(config)
    chosen = algorithms.make_scheduler(config, epochs)
    concurrent = settings.concurrent or capacity.trials
    console.say(
        f"tune: scheduler {settings.chosen_scheduler.name}, searcher {settings.chosen_searcher.name}, trials at a time:"
        f" {concurrent}"
    )
    # With workers, the workers take the resources. The trial's process takes one byte, since Ray needs a value.
    resources = capacity.resources if in_process else {"memory": 1}
    filesystem, path = storage.resolve(search.output)
    searcher = LedgerSearcher(search)
    return Tuner(
        ray.tune.with_resources(trainable, ray.tune.PlacementGroupFactory([resources])),
        tune_config=TuneConfig(
            metric=METRIC,
            mode=MODE,
            search_alg=LedgerGenerator(searcher, concurrent),
            scheduler=LedgerScheduler(chosen, epochs, concurrent, search.trials),
            num_samples=-1,
            # A process is used again only where its training has ended: a paused trial still holds its output, and a
            # trial with workers is stopped from outside.
            reuse_actors=in_process and not chosen.pauses,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=RunConfig(
            name=NAME,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=RETRIES),
            callbacks=[
                LedgerCallback(search, searcher),
                JsonLoggerCallback(),
                CSVLoggerCallback(),
                *([TBXLoggerCallback()] if settings.tensorboard else []),
            ],
            stop=BudgetStopper(search),
            verbose=0,
        ),
    )


def _name(trial: RayTrial) -> str:
    """The folder of a trial in Ray Tune's experiment: its number, as in the ledger."""
    return f"{trial.config['number']:04d}"


def stored_results(output: str) -> ResultGrid:
    """What Ray Tune has stored of a search. It holds pickles: whoever can write there runs code here.

    UserError where there is nothing.
    """
    filesystem, path = experiment(output)
    try:
        analysis = ExperimentAnalysis(path, storage_filesystem=filesystem, default_metric=METRIC, default_mode=MODE)
    except ValueError:
        raise UserError(f"{uris.join(output, NAME)} holds nothing of Ray Tune's; run the search again") from None
    return ResultGrid(analysis)


class _WithoutState:
    """Ray Tune pickles what it was given, for `Tuner.restore`: the search is left out.

    A `Search` holds a lease with its thread, which cannot be pickled.
    """

    _given: Search | None = None

    def __init__(self, search: Search) -> None:
        self._given = search

    @property
    def _search(self) -> Search:
        if self._given is None:
            raise UserError("a restored tuner shows results alone; to go on, run `mpc tune`, or tuner(config).fit()")
        return self._given

    def __getstate__(self) -> dict[str, Any]:
        return {}


class LedgerSearcher(_WithoutState, Searcher):
    """Gives Ray Tune the next trial: its number, which is all that its process reads, and its parameters.

    Trials that earlier calls closed come first; they do not run, and are rows of the results.
    """

    def __init__(self, search: Search) -> None:
        Searcher.__init__(self, metric=METRIC, mode=MODE)
        _WithoutState.__init__(self, search)
        self.closed = {trial.number: trial for trial in search.trials if trial.state != "open"}
        self._to_show = list(self.closed.values())
        self._concurrent, self.active = 1, set[str]()
        """The ids of trials that run or are about to."""

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Called by Ray Tune's limiter: this searcher holds to the limit itself, and paused trials do not count."""
        self._concurrent = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial, FINISHED, or None where as many run as may."""
        if self._to_show:
            trial = self._to_show.pop(0)
        elif len(self.active) >= self._concurrent:
            return None
        elif found := self._search.suggest():
            trial = found
            self.active.add(trial_id)
        else:
            return Searcher.FINISHED
        return {"number": trial.number, **trial.parameters}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing but that it no longer runs: the ledger has the rest."""
        self.active.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger has it."""


class LedgerGenerator(SearchGenerator):
    """Makes Ray Tune's trials; those that earlier calls closed as trials that have ended, with their last epoch."""

    def __init__(self, searcher: LedgerSearcher, concurrent: int) -> None:
        super().__init__(ConcurrencyLimiter(searcher, max_concurrent=concurrent))
        self._ledger_searcher = searcher

    def create_trial_if_possible(self, experiment_spec: dict[str, Any]) -> RayTrial | None:
        """The next trial; None where there is none now."""
        trial = super().create_trial_if_possible(experiment_spec)
        closed = self._ledger_searcher.closed.get(trial.config["number"]) if trial else None
        if trial and closed:
            trial.init_local_path()  # its folder, where its reports are
            trial.set_status(RayTrial.ERROR if closed.state == "failed" else RayTrial.TERMINATED)
            trial.update_last_result({"config": trial.config, "training_iteration": 0, "done": True})
            for count, point in enumerate(closed.curve, 1):
                trial.update_last_result({**trial.last_result, **point, "training_iteration": count})
        return trial


class LedgerCallback(_WithoutState, ray.tune.Callback):
    """Writes what Ray Tune says of trials to the ledger."""

    def __init__(self, search: Search, searcher: LedgerSearcher) -> None:
        super().__init__(search)
        self._searcher = searcher
        self._groups: dict[int, str] = {}  # the placement group of a trial's workers, by its number

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tell the searcher which trials run: paused ones make room."""
        self._searcher.active = {trial.trial_id for trial in trials if trial.status in ACTIVE}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch of a trial, or its last report, which repeats its last epoch."""
        number = trial.config["number"]
        self._groups[number] = result.get("group", "")
        if "failed" in result:
            trial.max_failures = 0  # what it raises next would come again
        for text in result.get("warnings", "").splitlines():
            self._search.on_warning(number, text)
        if METRIC in result:
            point = Point(
                stage=result["stage"],
                epoch=result["epoch"],
                figure=result[METRIC],
                train_loss=result["train_loss"],
            )
            self._search.on_epoch_end(self._search.trial(number), point, result.get("time_this_iter_s", 0.0))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended by itself, or was stopped."""
        number = trial.config["number"]
        ended = self._search.trial(number)
        if trial.last_result.get("ended"):
            self._search.close_trial(ended, "finished")
        elif not self._search.is_spent:  # else it stays open, and goes on should the budget grow
            if self._groups.get(number):
                # Ray Train frees the workers, too, but not where several clusters run on this machine.
                cluster.free_group(self._groups[number])
            self._search.close_trial(ended, "stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed, or its process was lost more than RETRIES times."""
        reason = trial.last_result.get("failed")
        if reason is None:
            lines = str(trial.get_error()).strip().splitlines()
            reason = uris.without_secrets(lines[-1][:300])
        self._search.close_trial(self._search.trial(trial.config["number"]), "failed", reason)


class BudgetStopper(_WithoutState, Stopper):
    """Ends the search when its budget is spent."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped by it."""
        return False

    def stop_all(self) -> bool:
        """Called by Ray Tune after every result."""
        return self._search.is_spent
