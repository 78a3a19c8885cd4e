"""`mpc adapt`: between stage 2 and the evaluation, a localizer adapts to images of another kind that have no labels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from mpc_model.classes import FORGERY, class_labels
from mpc_model.errors import DataError, UserError
from mpc_model.imaging.class_mix import MIXES
from mpc_model.localizer import Localizer
from mpc_model.losses.gaussian_similarity import SIMILARITIES
from mpc_model.losses.prototypes import PROTOTYPES
from mpc_model.nn.heads import has_parts
from pipelines.artifacts.model_directory import load_model, model_digest, require_head
from pipelines.config.root import Config
from pipelines.dataset import classes, integrity
from pipelines.dataset.batch import Batch
from pipelines.dataset.manifest import Manifest
from pipelines.training import launch, validation_metrics
from pipelines.training.adaptation import ADAPTATIONS
from pipelines.training.feature_cache import FeatureCache
from pipelines.training.shares import Shares
from pipelines.training.stage import Measured, ParameterGroups

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer


def adapt(config: Config, on_epoch: launch.OnEpoch = launch.ignore_epoch) -> launch.StageResult:
    """Adapt the localizer of `adapt.start` to the images of `adapt.target`, and leave it at `<adapt.output>/model`."""
    Adapting.require_inputs(config)
    return launch.train(config, stage_of(config), on_epoch)


def trainer(config: Config) -> "TorchTrainer":
    """The stage as a `ray.train.torch.TorchTrainer`: its `fit` does what `mpc adapt` does, and returns Ray's Result.

    UserError with `train.workers: 0`, which trains without Ray.
    """
    from pipelines.training.trainer import StageTrainer  # here: training in this process needs no Ray

    Adapting.require_inputs(config)
    return StageTrainer(config, stage_of(config))


def stage_of(config: Config) -> type["Adapting"]:
    """The stage for a model of one class, or of several."""
    return Adapting if config.model.classes == 1 else ClassAdapting


_REMEDY = "name another train.dataset, or a model of its classes as adapt.start"


class Adapting:
    """Backbone and head, on a labelled source and a target without labels; evaluated by the published protocol."""

    verb = "adapt"
    monitor = validation_metrics.F1
    passes = 1
    scribbles = False
    feature_cache: FeatureCache | None = None

    def __init__(self, config: Config) -> None:
        start = self.load_start(config)
        names = start.spec.class_names
        if start.spec.classes > 1 and not names:
            names = tuple(Manifest.read(str(config.train.dataset)).class_names)
        self.localizer = Localizer(replace(start.spec, input_size=config.model.input_size, class_names=names))
        self.localizer.load_state_dict(start.state_dict())
        self.localizer.card = start.card
        adaptation = ADAPTATIONS[config.adapt.method](self.localizer, config)
        self.module: nn.Module = adaptation
        self.parameter_groups: ParameterGroups = adaptation.parameter_groups
        self.calls = adaptation.calls

    @staticmethod
    def load_start(config: Config) -> Localizer:
        """The localizer of `adapt.start`. UserError where it is none that this config can train on its dataset."""
        model, uri = config.model, str(config.adapt.start)
        start = load_model(uri)
        require_head(start, uri)
        for key in ("backbone", "head", "head_settings", "classes"):
            started, wanted = getattr(start.spec, key), getattr(model, key)
            if started != wanted:
                raise UserError(
                    f"{uri} has {key} {started}, the config asks for {wanted}; set model.{key}, or name another"
                    " adapt.start"
                )
        if start.decoder is not None and has_parts(start.decoder):
            raise UserError(
                f"{uri} has the head {start.spec.head}, which has more than a map, and adaptation would train the map"
                " alone; name a localizer with another head, such as mlp4, as adapt.start"
            )
        dataset = str(config.train.dataset)
        classes.require(dataset, Manifest.read(dataset), model.classes, start.spec.class_names, uri, _REMEDY)
        return start

    @staticmethod
    def require_inputs(config: Config) -> None:
        """UserError where no target is named, or where there is no localizer to start from."""
        if config.adapt.target is None:
            raise UserError("adapt.target is not set; name the pixel dataset of the images to adapt to")
        model_digest(str(config.adapt.start))

    @classmethod
    def check(cls, config: Config, manifest: Manifest | None) -> None:
        """UserError or DataError where start, target and settings do not go together."""
        cls.require_inputs(config)
        settings, uri = config.adapt, str(config.adapt.target)
        for registry, name in ((ADAPTATIONS, settings.method), (SIMILARITIES, settings.similarity)):
            registry.require(name)
        PROTOTYPES.require(settings.prototypes)
        _check_mix(config, manifest)
        number, side = config.model.classes, config.model.input_size
        if settings.forged_weight != 1 and number > 1:
            raise UserError(
                f"adapt.forged_weight is for localizers of forgeries, and model.classes is {number}; leave it out"
            )
        if settings.crop and side and settings.crop > side:
            raise UserError(f"adapt.crop is {settings.crop}, but model.input_size is {side}; give a smaller one")
        if manifest:
            model, dataset = config.model, str(config.train.dataset)
            classes.require(dataset, manifest, model.classes, model.class_names, "model.classes", _REMEDY)
        target = Manifest.read(uri)
        if "train" not in target.splits:
            raise DataError(f"adapt.target {uri} has no samples in split 'train'; change its build.split")
        splits = ["train"]
        if settings.validate_on == "target":
            splits.append("validation")
            _check_validation(uri, target, manifest)
        integrity.check(uri, target, splits)

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


def _check_validation(uri: str, target: Manifest, source: Manifest | None) -> None:
    """UserError or DataError where the validation split of the target cannot choose the best epoch."""
    if "validation" not in target.splits:
        raise DataError(f"adapt.target {uri} has no samples in split 'validation'; use validate_on=source")
    target.require_labels(uri, ("validation",), "adapt.validate_on=target")
    if source and target.class_names != source.class_names:
        raise UserError(
            f"adapt.target {uri} has the classes {', '.join(target.class_names)[:200]}, the source"
            f" {', '.join(source.class_names)[:200]}; use validate_on=source"
        )
    if not target.indexed and not target.splits["validation"].forged:
        raise DataError(
            f"split 'validation' of adapt.target {uri} has no forged samples, by which an epoch could be chosen; change"
            " its sources or build.split, or use validate_on=source"
        )


def _check_mix(config: Config, manifest: Manifest | None) -> None:
    """UserError where the mix is unknown, or is not for the classes of the source (None: those of the config)."""
    mix, model = config.adapt.mix, config.model
    if not mix:
        return
    MIXES.require(mix)
    names = tuple(manifest.class_names if manifest else model.class_names)
    of_forgeries = class_labels(model.classes, names) == FORGERY
    if mix == "classes" and of_forgeries:
        raise UserError(
            "adapt.mix is classes, which would label splices authentic; for forgeries use forged or ignored"
        )
    if mix in ("forged", "ignored") and names and not of_forgeries:
        raise UserError(
            f"adapt.mix is {mix}, which is for forgeries, but the classes are {', '.join(names)[:200]}; use classes"
        )


class ClassAdapting(Adapting):
    """The same for a model of several classes; evaluated by the pixels of all validation images together."""

    monitor = validation_metrics.MEAN_IOU

    @staticmethod
    def evaluate(
        localizer: Localizer,
        train: Sequence[Batch],
        validation: Sequence[Batch],
        device: torch.device,
        seed: int,
        shares: Shares,
    ) -> Measured:
        """Dice, mean IoU and accuracy on the validation images."""
        return validation_metrics.of_classes(localizer, validation, device, shares)
