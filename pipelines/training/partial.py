"""Supervision by scribbles alone: the few pixels of each image that somebody labelled."""

import torch.nn.functional as F
from torch import Tensor

from mpc_model.errors import UserError
from mpc_model.losses.pixel_sets import IGNORED
from mpc_model.losses.segmentation import cross_entropy
from pipelines.config.root import Config
from pipelines.dataset.batch import DeviceBatch
from pipelines.dataset.manifest import Manifest
from pipelines.training.stage import Steps
from pipelines.training.supervision import SUPERVISIONS, Supervision


class ScribbleSupervision(Supervision):
    """A supervision that reads the scribbles of training samples, and never their masks."""

    scribbles = True

    @classmethod
    def check(cls, config: Config, manifest: Manifest | None) -> None:
        """As Supervision.check, and UserError where the dataset has no scribbles."""
        super().check(config, manifest)
        if manifest and not manifest.scribbles:
            raise UserError(
                f"finetune.supervision is {config.finetune.supervision}, but {config.train.dataset} has no scribbles;"
                " build it with a folder scribbles/ (layout indexed), or with scribbles: drawn in its sources"
            )


@SUPERVISIONS.add("partial")
class PartialSupervision(ScribbleSupervision):
    """Cross-entropy on the scribbled pixels: the baseline of everything that learns from scribbles."""

    def forward(self, inputs: DeviceBatch, seed: Tensor, steps: Steps) -> dict[str, Tensor]:
        """The loss at the scribbles' size, and `labelled_share`, the share of pixels that have a scribble.

        Stochastic depth draws from the global generator; nothing else is drawn, and nothing depends on `steps`.
        """
        scribbles = scribbles_of(inputs)
        logits = self.decoder(self.features(inputs)).float()
        upsampled = F.interpolate(logits, scribbles.shape[-2:], mode="bilinear", align_corners=False)
        labelled = (scribbles != IGNORED).float().mean()
        return {"total": cross_entropy(upsampled, scribbles, self.settings), "labelled_share": labelled}


def scribbles_of(inputs: DeviceBatch) -> Tensor:
    """The scribbles uint8 (B, H, W) of a batch; `ScribbleSupervision.check` refuses a dataset that has none."""
    assert inputs.scribbles is not None
    return inputs.scribbles
