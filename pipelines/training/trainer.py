"""A stage of training as a trainer of Ray Train, for those who call it from Python."""

from functools import partial

import ray
from ray.train import Result
from ray.train.torch import TorchTrainer

from mpc_model.errors import UserError
from pipelines.config.root import Config
from pipelines.runtime import cluster
from pipelines.training import launch, ray_history
from pipelines.training.ray_backend import TrainerSettings
from pipelines.training.stage import Stage


class StageTrainer(TorchTrainer):
    """A TorchTrainer whose `fit` does all that the command of the stage does: checks, lease, MLflow run, export."""

    def __init__(self, config: Config, stage: type[Stage]) -> None:
        if config.train.worker_range[1] == 0:
            raise UserError(
                "train.workers is 0: training is in this process, without Ray Train; set it to 1 or more, or call"
                f" pipelines.{stage.verb}.{stage.verb}(config)"
            )
        cluster.connect()
        self._output = str(getattr(config, stage.verb).output)
        settings = TrainerSettings.of(config, stage, ray.cluster_resources())
        super().__init__(partial(launch.train, config, stage, launch.ignore_epoch), **settings.trainer_arguments([]))

    def fit(self) -> Result:
        """Train to the end, or go on with an unfinished run; a finished one is reused.

        Returns Ray's Result: the newest checkpoint, and all that are kept, with their metrics. Raises MPCError.
        """
        self.train_loop_per_worker()
        return ray_history.result(self._output)
