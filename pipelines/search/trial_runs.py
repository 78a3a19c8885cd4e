"""A search in MLflow: a run for each trial, below the search's own, and its stages' runs below it.

The ledger holds every metric, so an MLflow that does not answer costs nothing: what it lacks is sent when it answers
again. Only a new trial waits for it, since the runs of its stages need a run to be below.
"""

from collections.abc import Iterable, Mapping

from mpc_model.errors import InfrastructureError, MPCError
from pipelines.artifacts import record
from pipelines.config.root import Config
from pipelines.runtime import console, environment, storage, uris
from pipelines.runtime.retry import Backoff, retry
from pipelines.search import ledger, space
from pipelines.search.ledger import Point, Trial
from pipelines.search.trial import VERBS, config_of, metric_column
from pipelines.tracking import outbox, runs

BACKOFF = Backoff(
    first=environment.TRIAL_PAUSE_SECONDS,
    longest=environment.TRIAL_PAUSE_SECONDS,
    seconds=environment.TRIAL_PATIENCE_SECONDS,
)
"""How long a new trial waits for an MLflow that does not answer."""
STATUS: dict[ledger.State, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "FINISHED", "open": "KILLED"}
"""A trial that the scheduler stopped did what it was asked to: it is no failure, and its tag says how it ended."""
STATE = "mpc.state"
"""The tag of a trial's run: finished, failed, stopped (early, by the scheduler), or open (interrupted)."""


class TrialRuns:
    """The runs of one search's trials. The config of a trial needs the `datasets` of the search."""

    def __init__(self, config: Config, run_id: str, datasets: Mapping[str, str]) -> None:
        self._config, self._run_id, self._datasets = config, run_id, datasets
        self._away = False  # whether MLflow does not answer; that is said once

    def begin(self, trial: Trial) -> None:
        """Make a trial's run, or take it up again. InfrastructureError when MLflow does not answer for too long."""
        overrides = (override.partition("=") for override in space.overrides(trial.parameters))
        tags = {"mpc.trial": str(trial.number)} | {f"mpc.tune.{key}": value for key, _, value in overrides}
        config = config_of(self._config, trial, self._datasets)
        trial.run_id = retry(
            lambda: runs.start_run(
                config, "trial", trial.run_id or None, parent=self._run_id, name=f"trial {trial.number}", tags=tags
            ),
            InfrastructureError,
            BACKOFF,
            lambda error, failures, pause: self._say_away(error),
        )

    def report(self, trial: Trial) -> None:
        """Send the points that MLflow does not have yet, at steps that count the epochs of both stages."""
        points = [
            (step, runs.now(), {self._metric(point): point["figure"], "train_loss": point["train_loss"]})
            for step, point in enumerate(trial.curve, 1)
            if step > trial.reported
        ]
        if points and trial.run_id:
            try:
                runs.log_points(self._config, trial.run_id, points)
            except MPCError as error:
                self._say_away(error)
            else:
                self._away = False
                trial.reported = len(trial.curve)
                trial.save(str(self._config.tune.output))

    def _metric(self, point: Point) -> str:
        return metric_column(self._config, point["stage"])

    def end(self, trial: Trial) -> None:
        """End the runs of a trial and of its stages: a process that was stopped could not."""
        if not trial.run_id or trial.closed:
            return
        config = config_of(self._config, trial, self._datasets)
        for verb in VERBS:
            output = str(getattr(config, verb).output)
            if storage.exists(uris.join(output, record.RECORD)):
                stage = record.read(output)
                if not stage.finished and "run_id" in stage.results:
                    outbox.finish(config, verb, stage.results["run_id"], STATUS[trial.state])
        try:
            runs.tag(self._config, trial.run_id, {STATE: trial.state})
            runs.finish(self._config, trial.run_id, STATUS[trial.state])
        except MPCError as error:
            self._say_away(error)
        else:
            trial.closed = trial.state != "open"
            trial.save(str(self._config.tune.output))

    def settle(self, all_trials: Iterable[Trial]) -> None:
        """Send and end all that is left."""
        for trial in all_trials:
            self.report(trial)
            self.end(trial)

    def _say_away(self, error: Exception) -> None:
        if not self._away:
            console.warn(f"tune: {error}; the search goes on, metrics are kept and sent later, a new trial waits")
        self._away = True
