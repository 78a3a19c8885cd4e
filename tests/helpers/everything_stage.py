"""`mpc finetune` by the supervision of small_supervision.py: whoever imports this module, a worker too, knows it."""

import sys

from small_supervision import Everything

from pipelines import cli, finetune
from pipelines.training.supervision import SUPERVISIONS

SUPERVISIONS.add("everything")(Everything)


class EverythingTuning(finetune.Finetuning):
    """A stage of this module, so that workers import it."""


def main() -> None:
    finetune.stage_of = lambda config: EverythingTuning
    sys.exit(cli.main())
