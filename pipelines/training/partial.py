"""Supervision by scribbles alone: the few pixels of each image that somebody labelled."""

from torch import Tensor

from mpc_model.errors import UserError
from mpc_model.localizer import Localizer
from pipelines.config.root import Config
from pipelines.dataset.batch import DeviceBatch
from pipelines.dataset.counts import Statistics
from pipelines.dataset.manifest import Manifest
from pipelines.training import part_losses
from pipelines.training.stage import Steps
from pipelines.training.supervision import SUPERVISIONS, Supervision


class ScribbleSupervision(Supervision):
    """A supervision that reads the scribbles of training samples, and never their masks."""

    scribbles = True

    @classmethod
    def check(cls, config: Config, manifest: Manifest | None) -> None:
        """As Supervision.check, and UserError where the dataset has no scribbles, or none to train on."""
        super().check(config, manifest)
        if not manifest:
            return
        where = f"finetune.supervision is {config.finetune.supervision}, but"
        if not manifest.scribbles:
            raise UserError(
                f"{where} {config.train.dataset} has no scribbles; build it with a folder scribbles/ (layout indexed),"
                " or with scribbles: drawn in its sources"
            )
        if not Statistics.from_json(manifest.statistics).count_by("scribbled", "split")["train",]:
            raise UserError(
                f"{where} scribbles label no pixel of split 'train' of {config.train.dataset}; build it with scribbles"
                " of the sources that are trained on"
            )


@SUPERVISIONS.add("partial")
class PartialSupervision(ScribbleSupervision):
    """Cross-entropy on the scribbled pixels, and what else the head has: the baseline of what learns from scribbles."""

    def __init__(self, localizer: Localizer, config: Config) -> None:
        super().__init__(localizer, config)
        self.settings = config.finetune.model_copy(update={"loss": "cross_entropy"})
        part_losses.check(self.settings, self.decoder)

    def forward(self, inputs: DeviceBatch, seed: Tensor, steps: Steps) -> dict[str, Tensor]:
        """The losses at the scribbles' size.

        Stochastic depth draws from the global generator; nothing else is drawn, and nothing depends on `steps`.
        """
        labelled = inputs._replace(masks=scribbles_of(inputs))
        return part_losses.head_losses(self.decoder, self.features(inputs), labelled, self.settings)


def scribbles_of(inputs: DeviceBatch) -> Tensor:
    """The scribbles uint8 (B, H, W) of a batch; `ScribbleSupervision.check` refuses a dataset that has none."""
    assert inputs.scribbles is not None
    return inputs.scribbles
