"""`mpc finetune`: stage 2, a small head on the frozen features of stage 1, or the whole network."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from mpc_model.errors import UserError
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.losses.segmentation import SEGMENTATION_LOSSES
from pipelines.artifacts.model_directory import load_model, model_digest, require_head
from pipelines.config.root import Config
from pipelines.dataset import classes
from pipelines.dataset.batch import Batch
from pipelines.dataset.manifest import Manifest
from pipelines.training import (
    launch,
    partial,  # noqa: F401  registers its supervision; the file of a new one is imported here, too
    pclmix,  # noqa: F401
    validation_metrics,
)
from pipelines.training.feature_cache import FeatureCache
from pipelines.training.shares import Shares
from pipelines.training.stage import Measured, ParameterGroups
from pipelines.training.supervision import SUPERVISIONS

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer


def finetune(config: Config, on_epoch: launch.OnEpoch = launch.ignore_epoch) -> launch.StageResult:
    """Train the head of `config.model` and leave the localizer at `<finetune.output>/model`."""
    if config.finetune.start != "scratch":
        model_digest(str(config.finetune.encoder))  # raises where there is no encoder, before anything else is checked
    return launch.train(config, stage_of(config), on_epoch)


def trainer(config: Config) -> "TorchTrainer":
    """Stage 2 as a `ray.train.torch.TorchTrainer`: its `fit` does what `mpc finetune` does, and returns Ray's Result.

    UserError with `train.workers: 0`, which trains without Ray.
    """
    from pipelines.training.trainer import StageTrainer  # here: training in this process needs no Ray

    return StageTrainer(config, stage_of(config))


def stage_of(config: Config) -> type["Finetuning"]:
    """The stage for a model of one class, or of several."""
    return Finetuning if config.model.classes == 1 else ClassFinetuning


_TWO = "its pixels are authentic or forged: set model.classes to 1, or to 2 for a softmax of both"


class Finetuning:
    """Stage 2: the head, on the frozen features of stage 1; evaluated by the published protocol."""

    verb = "finetune"
    monitor = validation_metrics.F1
    passes = 1

    def __init__(self, config: Config) -> None:
        settings, model = config.finetune, config.model
        names = tuple(_class_names(config))
        self.localizer = Localizer(
            ModelSpec(
                model.backbone,
                model.head,
                model.input_size,
                classes=model.classes,
                class_names=names,
                head_settings=model.head_settings,
            )
        )
        if settings.start != "scratch":
            self._start_from(str(settings.encoder), config)
        supervision = SUPERVISIONS[settings.supervision](self.localizer, config)
        self.module: nn.Module = supervision
        self.parameter_groups: ParameterGroups = supervision.parameter_groups
        self.feature_cache: FeatureCache | None = supervision.cache
        self.calls, self.scribbles = supervision.calls, supervision.scribbles

    def _start_from(self, uri: str, config: Config) -> None:
        start = load_model(uri)
        if start.spec.backbone != config.model.backbone:
            raise UserError(
                f"{uri} holds a {start.spec.backbone}, the config asks for {config.model.backbone};"
                " set model.backbone, or name another finetune.encoder"
            )
        if config.finetune.start == "localizer":
            require_head(start, uri)
            if start.spec.head != config.model.head:
                raise UserError(
                    f"{uri} has the head {start.spec.head}, the config asks for {config.model.head};"
                    " set model.head, or finetune.start=encoder"
                )
            if start.spec.head_settings != config.model.head_settings:
                raise UserError(
                    f"{uri} has a head of head_settings {start.spec.head_settings}, the config asks for"
                    f" {config.model.head_settings}; set model.head_settings, or finetune.start=encoder"
                )
            if start.spec.classes != config.model.classes:
                raise UserError(
                    f"{uri} has {start.spec.classes} classes, the config asks for {config.model.classes};"
                    " set model.classes, or finetune.start=encoder"
                )
            if start.spec.class_names != self.localizer.spec.class_names:
                raise UserError(
                    f"{uri} has the classes {', '.join(start.spec.class_names)[:200]}, the dataset has"
                    f" {', '.join(self.localizer.spec.class_names)[:200]}; set finetune.start=encoder"
                )
            self.localizer.load_state_dict(start.state_dict())
        else:
            self.localizer.encoder.load_state_dict(start.encoder.state_dict())
        self.localizer.card = start.card

    @staticmethod
    def check(config: Config, manifest: Manifest | None) -> None:
        """UserError or InfrastructureError where the supervision refuses settings or dataset, or where the model has
        other classes than the dataset."""
        SEGMENTATION_LOSSES.require(config.finetune.loss)
        if manifest:
            model, count = config.model, len(manifest.class_names)
            remedy = f"set model.classes={count} and leave model.class_names out" if manifest.indexed else _TWO
            dataset = str(config.train.dataset)
            classes.require(dataset, manifest, model.classes, model.class_names, "model.classes", remedy)
        SUPERVISIONS[config.finetune.supervision].check(config, manifest)

    @staticmethod
    def evaluate(
        localizer: Localizer,
        train: Sequence[Batch],
        validation: Sequence[Batch],
        device: torch.device,
        seed: int,
        shares: Shares,
    ) -> Measured:
        """F1, IoU and false alarm rate on the validation images."""
        return validation_metrics.of_forgeries(localizer, validation, device, shares)


class ClassFinetuning(Finetuning):
    """Stage 2 of a model of several classes; evaluated by the pixels of all validation images together."""

    monitor = validation_metrics.DICE

    @staticmethod
    def evaluate(
        localizer: Localizer,
        train: Sequence[Batch],
        validation: Sequence[Batch],
        device: torch.device,
        seed: int,
        shares: Shares,
    ) -> Measured:
        """Dice (mean over all classes but the background), mean IoU and accuracy on the validation images."""
        return validation_metrics.of_classes(localizer, validation, device, shares)


def _class_names(config: Config) -> Sequence[str]:
    """The names of several classes: those of the config, or else of the dataset."""
    model = config.model
    if model.classes == 1 or model.class_names:
        return model.class_names
    return Manifest.read(str(config.train.dataset)).class_names
