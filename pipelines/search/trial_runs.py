"""A search in MLflow: a run for each trial, below the search's own, and its stages' runs below it.

The ledger holds every figure, so an MLflow that is away costs nothing: what it lacks is sent when it answers again.
Only a new trial waits for it, since its stages need a run to be below.
"""

import time
from collections.abc import Iterable

from mpc_model.errors import InfrastructureError, MPCError
from pipelines.artifacts import record as outputs
from pipelines.config.root import Config
from pipelines.runtime import console, storage, uris
from pipelines.search import ledger, space
from pipelines.search import trial as trials
from pipelines.search.ledger import Trial
from pipelines.tracking import outbox, runs

PATIENCE_SECONDS = 600.0
PAUSE_SECONDS = 5.0
STATUS: dict[ledger.State, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED", "open": "KILLED"}


class TrialRuns:
    """The runs of one search's trials. `config_of` a trial needs the `datasets` of the search."""

    def __init__(self, config: Config, run_id: str, datasets: dict[str, str]) -> None:
        self._config, self._run_id, self._datasets = config, run_id, datasets
        self._silent = False  # MLflow is away, and that was said

    def begin(self, trial: Trial) -> None:
        """Make a trial's run, or take it up again; InfrastructureError when MLflow stays away for PATIENCE_SECONDS."""
        said = space.overrides(trial.parameters)
        tags = {f"mpc.tune.{key}": value for key, _, value in (one.partition("=") for one in said)}
        config = trials.config_of(self._config, trial, self._datasets)
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                trial.run_id = runs.start_run(
                    config,
                    "trial",
                    trial.run_id or None,
                    parent=self._run_id,
                    name=f"trial {trial.number}",
                    tags={"mpc.trial": str(trial.number), **tags},
                )
                return
            except InfrastructureError as error:
                if time.monotonic() > until:
                    raise
                self._away(error)
                time.sleep(PAUSE_SECONDS)

    def report(self, trial: Trial) -> None:
        """Send the figures that MLflow does not have yet, at steps that count the epochs of both stages."""
        points = [
            (step, runs.now(), {"figure": point["figure"], "train_loss": point["train_loss"]})
            for step, point in enumerate(trial.curve, 1)
            if step > trial.told
        ]
        if points and trial.run_id:
            try:
                runs.log_points(self._config, trial.run_id, points)
            except MPCError as error:
                self._away(error)
            else:
                self._silent = False
                trial.told = len(trial.curve)
                trial.save(str(self._config.tune.output))

    def end(self, trial: Trial) -> None:
        """End the runs of a trial and of its stages: a process that was stopped could not."""
        if not trial.run_id or trial.closed:
            return
        config = trials.config_of(self._config, trial, self._datasets)
        for verb in trials.VERBS:
            place = str(getattr(config, verb).output)
            if storage.exists(uris.join(place, outputs.RECORD)):
                record = outputs.read(place)
                if not record.finished and "run_id" in record.results:
                    outbox.finish(config, verb, record.results["run_id"], STATUS[trial.state])
        try:
            runs.finish(self._config, trial.run_id, STATUS[trial.state])
        except MPCError as error:
            self._away(error)
        else:
            trial.closed = trial.state != "open"
            trial.save(str(self._config.tune.output))

    def settle(self, every: Iterable[Trial]) -> None:
        """Send and end all that is left."""
        for trial in every:
            self.report(trial)
            self.end(trial)

    def _away(self, error: MPCError) -> None:
        if not self._silent:
            console.warn(f"tune: {error}; the search goes on, figures are kept and sent later, a new trial waits")
        self._silent = True
