"""`mpc pretrain`: stage 1, the backbone alone, by multi-view pixel contrast."""

import hashlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.errors import UserError
from mpc_model.evaluation.metrics import summarize
from mpc_model.evaluation.probes import drawn_pixels, fit_drawn, probe_scores
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.losses.contrast import OBJECTIVES, multi_view_contrast
from mpc_model.losses.sampling import SAMPLERS
from mpc_model.nn.backbone import Backbone
from pipelines.config.root import Config
from pipelines.dataset.batch import Batch, DeviceBatch
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import storage
from pipelines.training import launch
from pipelines.training.feature_cache import FeatureCache
from pipelines.training.shares import Shares
from pipelines.training.stage import Measured, ParameterGroups, Steps

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

MIN_TEMPERATURE = 0.01
"""Lower bound of a learned temperature: below it, the loss of a single pixel outweighs the rest of the batch."""


def pretrain(config: Config, on_epoch: launch.OnEpoch = launch.ignore_epoch) -> launch.StageResult:
    """Train the encoder of `config.model` and leave its model directory at `<pretrain.output>/model`."""
    return launch.train(config, Pretraining, on_epoch)


def trainer(config: Config) -> "TorchTrainer":
    """Stage 1 as a `ray.train.torch.TorchTrainer`: its `fit` does what `mpc pretrain` does, and returns Ray's Result.

    UserError with `train.workers: 0`, which trains without Ray.
    """
    from pipelines.training.trainer import StageTrainer  # here: training in this process needs no Ray

    return StageTrainer(config, Pretraining)


class _Contrast(nn.Module):
    """Two passes of a batch through the encoder, and the contrastive losses between them.

    The passes differ by stochastic depth, and with `second_pass: view` the second one shows another view of the same
    samples. Only the cross-modality loss uses the second pass: where its weight is 0 there is one pass, at half the
    cost.
    """

    def __init__(self, encoder: Backbone, config: Config) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = config.pretrain
        self.batch_size = config.train.batch_size
        if self.settings.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(self.settings.temperature)))

    def forward(self, inputs: DeviceBatch, seed: Tensor, steps: Steps) -> dict[str, Tensor]:
        """Losses of a batch; `seed` decides which pixels are drawn, no weight changes with `steps`."""
        settings = self.settings
        first: Sequence[Tensor]
        second: Sequence[Tensor]
        if settings.weights[2]:
            again = inputs.images if inputs.second_images is None else inputs.second_images
            maps = self.encoder(torch.cat([inputs.images, again]))
            first, second = zip(*(level.chunk(2) for level in maps), strict=True)
        else:
            first = second = self.encoder(inputs.images)
        temperature: float | Tensor = settings.temperature
        if settings.learn_temperature:
            temperature = self.log_temperature.exp().clamp_min(MIN_TEMPERATURE)
        losses = multi_view_contrast(
            first,
            second,
            _resized_masks(inputs.masks, first[0]),
            second_mask=None if inputs.second_masks is None else _resized_masks(inputs.second_masks, first[0]),
            temperature=temperature,
            anchors_per_class=settings.anchors_per_class,
            generator=seed,
            form=settings.objective,
            anchors=settings.anchors,
            sampler=settings.sampler,
            boundary_width=settings.boundary_width,
            hardness=settings.hardness,
            negatives=settings.negatives,
            shared_negatives=settings.shared_negatives,
            gather_gradients=settings.gather_gradients,
            batch_size=self.batch_size,
            weights=settings.weights,
        )
        # Where no image has both classes, this alone gives the temperature the gradient that other ranks wait for.
        used_temperature = torch.as_tensor(temperature, device=inputs.images.device)
        losses["total"] = losses["total"] + 0 * used_temperature
        return losses | {"temperature": used_temperature.detach()}


def _resized_masks(masks: Tensor, finest: Tensor) -> Tensor:
    """Masks (B, H, W) at the size of the finest map, by nearest neighbour."""
    return F.interpolate(masks[:, None].float(), finest.shape[-2:], mode="nearest")[:, 0].to(torch.uint8)


class Pretraining:
    """Stage 1: the encoder alone, by multi-view pixel contrast; evaluated by a linear probe and by k-means."""

    verb = "pretrain"
    monitor = "linear_probe_f1"
    calls = 1
    scribbles = False
    feature_cache: FeatureCache | None = None

    def __init__(self, config: Config) -> None:
        spec = ModelSpec(config.model.backbone, None, config.model.input_size)
        self.localizer = Localizer(spec)
        if config.pretrain.initial:
            if storage.folder_exists(config.pretrain.initial):
                raise UserError(
                    f"pretrain.initial {config.pretrain.initial} is a folder; name a published checkpoint, one file"
                )
            with tempfile.NamedTemporaryFile(suffix=".pth") as file:
                file.write(storage.read_bytes(config.pretrain.initial))
                file.flush()
                try:
                    start = Localizer.from_published(file.name, config.model.backbone)
                except UserError as error:
                    raise UserError(str(error).replace(file.name, config.pretrain.initial)) from None
            self.localizer.encoder.load_state_dict(start.encoder.state_dict())
            origin = start.card["published"]
            origin["file"] = config.pretrain.initial.rsplit("/", 1)[-1]  # not the name of the temporary copy
            self.localizer.card = {"published": origin}
        self.module: nn.Module = _Contrast(self.localizer.encoder, config)
        self.parameter_groups: ParameterGroups = [(self.module.parameters(), 1.0)]
        self.passes = 2 if config.pretrain.weights[2] else 1

    @staticmethod
    def check(config: Config, manifest: Manifest | None) -> None:
        """UserError for names that do not exist and for options that have nothing to work on."""
        settings = config.pretrain
        if manifest and manifest.indexed:
            raise UserError(
                f"stage 1 contrasts authentic with forged pixels, and {config.train.dataset} has the classes"
                f" {', '.join(manifest.classes)}; leave it out: mpc finetune with finetune.start=scratch"
            )
        OBJECTIVES.require(settings.objective)
        SAMPLERS.require(settings.sampler)
        views = manifest.views if manifest else config.build.views.count + 1
        if settings.second_pass == "view" and views < 2:
            raise UserError(
                "pretrain.second_pass is view, but the dataset stores one view a sample; build it with"
                " build.views.count of 1 or more, or use second_pass=depth"
            )
        if settings.second_pass == "view" and not settings.weights[2]:
            raise UserError(
                "pretrain.second_pass is view, but the cross-modality loss, which alone looks at it, has weight 0; give"
                " it one (the third of pretrain.weights), or use second_pass=depth"
            )
        if settings.negatives == "batch" and config.train.batch_size < 2:
            raise UserError(
                "pretrain.negatives is batch, but train.batch_size is 1: no other image; raise it, or use image"
            )
        if settings.negatives == "ranks" and config.train.worker_range[1] < 2:
            raise UserError(
                "pretrain.negatives is ranks, but train.workers is at most one; use negatives=batch, or more workers"
            )

    @staticmethod
    def evaluate(
        localizer: Localizer,
        train: Sequence[Batch],
        validation: Sequence[Batch],
        device: torch.device,
        seed: int,
        shares: Shares,
    ) -> Measured:
        """F1 and IoU of both probes on the validation images; the linear one is fitted on training images, by rank 0.

        Each image has draws of its own, from `seed` and its id: it does not matter which rank scores it.
        """

        def drawn(images: list[_Mapped]) -> tuple[Tensor, Tensor]:
            rows, labels = zip(*(drawn_pixels(*image) for image in images), strict=True)
            return torch.cat(rows), torch.cat(labels)

        pixels = shares.agreed(lambda: [drawn(images) for images in _mapped(localizer, train, device, seed)])
        rows = shares.rows_on_first([rows for rows, _ in pixels], device)
        labels = shares.rows_on_first([labels for _, labels in pixels], device)
        fitted = shares.first(lambda: [one.cpu() for one in fit_drawn(rows, labels)])
        weight, bias = (one.to(device) for one in fitted)
        of_batches = shares.gathered(
            lambda: [
                [probe_scores(*image, weight=weight, bias=bias) for image in images]
                for images in _mapped(localizer, validation, device, seed)
            ]
        )
        clustered, probed = zip(*(scores for of_batch in of_batches for scores in of_batch), strict=True)
        summaries = {"kmeans": summarize(clustered), "linear_probe": summarize(probed)}
        return Measured({f"{name}_{key}": summary[key] for name, summary in summaries.items() for key in ("f1", "iou")})


_Mapped = tuple[list[Tensor], npt.NDArray[np.uint8], torch.Generator]
"""An image's maps (C_k, h_k, w_k) and mask (H, W), and the generator of what is drawn at random for it."""


@torch.no_grad()
def _mapped(localizer: Localizer, batches: Sequence[Batch], device: torch.device, seed: int) -> Iterator[list[_Mapped]]:
    """The images of each batch."""
    for batch in batches:
        maps = localizer.features(batch.to(device).images)
        yield [
            ([level[index] for level in maps], batch.masks[index].numpy(), _generator(seed, name))
            for index, name in enumerate(batch.ids)
        ]


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
