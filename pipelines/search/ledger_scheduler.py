"""A scheduler of Ray Tune, which sees each epoch of a trial once, whatever the trial's process went through."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from pipelines.search.algorithms import METRIC, MODE, Scheduler
from pipelines.search.ledger import Trial

ACTIVE = (RayTrial.PENDING, RayTrial.RUNNING)
"""States of a trial that trains, or is about to."""


class _EarlierTrial(NamedTuple):
    """All that a scheduler reads of a trial that an earlier call closed."""

    trial_id: str


class LedgerScheduler(TrialScheduler):
    """Passes epochs on to another scheduler, and what that decides back.

    A trial that was paused, or whose process was lost, reports the epochs of before again, and its last report repeats
    its last epoch: the other scheduler sees none of them twice. Time, as it sees it, is the number of epochs of both
    stages. Nothing is decided at the last epoch: a trial that came so far ends by itself, and exports its model.
    """

    def __init__(self, chosen: Scheduler, epochs: int, concurrent: int, earlier: Iterable[Trial] = ()) -> None:
        """`epochs` are those of a whole trial; `concurrent` trials run at the same time at most. `earlier` are trials
        of earlier calls: those that are closed are shown to schedulers that compare with trials that have ended."""
        super().__init__()
        self._metric, self._mode, self._supports_buffered_results = METRIC, MODE, False
        self._inner, self._pauses = chosen
        self._epochs, self._concurrent = epochs, concurrent
        self._seen: dict[str, set[tuple[str, int]]] = {}  # (stage, epoch) of each trial, by its id
        self._last: dict[str, dict[str, Any]] = {}  # the last result with an epoch of each trial
        if isinstance(self._inner, AsyncHyperBandScheduler | MedianStoppingRule):
            for trial in earlier:
                if trial.state != "open":
                    self._replay(trial)

    def _replay(self, trial: Trial) -> None:
        stub: Any = _EarlierTrial(f"ledger-{trial.number}")
        controller: Any = SimpleNamespace(get_live_trials=list)
        self._inner.on_trial_add(controller, stub)
        for count, point in enumerate(trial.curve, 1):
            spent = trial.seconds * count / len(trial.curve)
            result = {"training_iteration": count, "time_total_s": spent, METRIC: point["figure"]}
            self._inner.on_trial_result(controller, stub, result)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Nothing: the other scheduler has its metric."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: RayTrial) -> None:
        """A trial that is to run; those that earlier calls closed were shown before."""
        if not trial.is_finished():
            self._inner.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        """What to do after a report: an epoch, or the last report of a trial."""
        if METRIC not in result:  # the last report of a trial that failed in its first epoch
            return TrialScheduler.CONTINUE
        point, seen = (result["stage"], result["epoch"]), self._seen.setdefault(trial.trial_id, set())
        if point in seen:
            return TrialScheduler.CONTINUE
        seen.add(point)
        self._last[trial.trial_id] = result = {**result, "training_iteration": len(seen)}
        action = self._inner.on_trial_result(tune_controller, trial, result)
        if len(seen) >= self._epochs or (action == TrialScheduler.PAUSE and not self._pauses):
            return TrialScheduler.CONTINUE  # a rule that only yields to others: as many run as may
        return action

    def on_trial_complete(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> None:
        """A trial has ended; its last epoch counts, not its last report."""
        if trial.trial_id in self._last:
            self._inner.on_trial_complete(tune_controller, trial, self._last[trial.trial_id])
        else:
            self._inner.on_trial_remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: RayTrial) -> None:
        """The process of a trial was lost, or it failed."""
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: RayTrial) -> None:
        """A trial that did not run is taken away."""
        self._inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> RayTrial | None:
        """The next trial to run; a paused one waits until there is room for it."""
        chosen = self._inner.choose_trial_to_run(tune_controller)
        if chosen and chosen.status == RayTrial.PAUSED:
            active = sum(trial.status in ACTIVE for trial in tune_controller.get_trials())
            return chosen if active < self._concurrent else None
        return chosen

    def debug_string(self) -> str:
        """What the other scheduler says of itself."""
        return str(self._inner.debug_string())
