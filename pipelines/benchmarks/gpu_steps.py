"""Whole steps of both stages on a device, with one lever after the other: forward, backward and the optimizer.

The steps are those of pipelines/pretrain.py and pipelines/finetune.py without their configs, so that they run where
pydantic is not installed; a test holds them to the same losses. The plain step has the plain HRFormer, the loop over
images for the contrast, the focal loss with boolean indexing, no autocast, and the optimizer as torch makes it.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.classes import IGNORED
from mpc_model.losses.contrast import multi_view_contrast
from mpc_model.losses.focal import focal_loss
from mpc_model.nn.heads import HEADS
from mpc_model.nn.hrformer import HRFormer
from pipelines.benchmarks import contrast, device_timing, floors
from pipelines.benchmarks.device_timing import Setting
from pipelines.benchmarks.floors import Work
from pipelines.benchmarks.gpu_encoder import pair
from pipelines.benchmarks.gpu_table import Row, WrongValueError
from pipelines.benchmarks.reference_hrformer import PlainHRFormer
from pipelines.runtime.device import prepare_training

SEED = 7
LEARNING_RATE = 1e-6
"""So small that the weights of the last round are those of the first, nearly."""
TOLERANCE, BF16_TOLERANCE = 1e-3, 5e-2
"""Largest relative difference of a step's loss from the plain one's. The BatchNorms of a fresh network in train mode
amplify the rounding of every layer."""

Encoder = HRFormer | PlainHRFormer
Trains = Literal["all", "head", "cached"]
"""Of stage 2: the whole network, the head on a frozen encoder, the head on features that were stored."""


class Stage1(nn.Module):
    """Two passes of a batch, which differ by stochastic depth, and the contrast between them."""

    def __init__(self, encoder: Encoder, count: int) -> None:
        super().__init__()
        self.encoder, self.count = encoder, count

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """The loss of images (B, 3, H, W) in [0, 1] and masks (B, H, W)."""
        maps = self.encoder(torch.cat([images, images]))
        first, second = zip(*(level.chunk(2) for level in maps), strict=True)
        labels = F.interpolate(masks[:, None].float(), first[0].shape[-2:], mode="nearest")[:, 0].to(torch.uint8)
        return self._loss(first, second, labels)

    def _loss(self, first: Sequence[Tensor], second: Sequence[Tensor], labels: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(SEED)
        return multi_view_contrast(
            first, second, labels, temperature=0.1, anchors_per_class=self.count, generator=generator
        )["total"]


class PlainStage1(Stage1):
    """The same with the plain formula of the loss."""

    def _loss(self, first: Sequence[Tensor], second: Sequence[Tensor], labels: Tensor) -> Tensor:
        with torch.autocast(labels.device.type, enabled=False):
            return contrast.plain_contrast(first, second[0], labels, self.count, seed=SEED)


class Stage2(nn.Module):
    """The head under the focal loss, on the features of a frozen encoder, of one that is trained, or on cached ones."""

    def __init__(self, encoder: Encoder, head: nn.Module, trains: Trains) -> None:
        super().__init__()
        self.encoder, self.head, self.trains = encoder, head, trains
        self.cached: list[Tensor] | None = None
        if trains != "all":
            self.encoder.requires_grad_(False).eval()

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """The loss of images (B, 3, H, W) in [0, 1] and masks (B, H, W)."""
        if self.trains == "all":
            features = self.encoder(images)
        else:
            with torch.no_grad():
                features = self.cached or self.encoder(images)
                if self.trains == "cached":
                    self.cached = features
        logits = F.interpolate(self.head(features).float(), masks.shape[-2:], mode="bilinear", align_corners=False)
        return self._loss(logits, masks)

    def _loss(self, logits: Tensor, masks: Tensor) -> Tensor:
        return focal_loss(logits, masks)


class PlainStage2(Stage2):
    """The same with the formula of the focal loss, on the pixels that are not ignored."""

    def _loss(self, logits: Tensor, masks: Tensor) -> Tensor:
        seen = masks != IGNORED
        probability = logits[:, 0][seen].sigmoid()
        of_class = torch.where(masks[seen] == 1, probability, 1 - probability)
        return (-0.5 * (1 - of_class) ** 2 * of_class.log()).mean()


@dataclass(frozen=True)
class Levers:
    """What makes a step fast, each on or off."""

    bf16: bool = False
    fused_optimizer: bool = False
    blocks: bool = False
    """The encoder's blocks compiled (train.compile)."""
    graph: bool = False
    """The encoder's passes captured (train.cuda_graph)."""


LEVERS: tuple[tuple[str, Levers], ...] = (
    ("no lever", Levers()),
    ("+ bf16", Levers(bf16=True)),
    ("+ fused optimizer", Levers(bf16=True, fused_optimizer=True)),
)
"""Each row has one lever more than the one before."""
COMPILED: tuple[tuple[str, Levers], ...] = (
    ("+ CUDA graph", Levers(bf16=True, fused_optimizer=True, graph=True)),
    ("+ compiled blocks", Levers(bf16=True, fused_optimizer=True, blocks=True, graph=True)),
)
"""The levers that follow on a GPU; compiling takes its time."""


def batch_of(setting: Setting, images: int, pixels: int) -> tuple[Tensor, Tensor]:
    """Random images, float32 (B, 3, H, W), and masks, uint8 (B, H, W), of which five eighths are forged."""
    masks = torch.zeros(images, pixels, pixels, dtype=torch.uint8, device=setting.device)
    masks[:, :, pixels * 3 // 8 :] = 1
    return torch.rand(images, 3, pixels, pixels, device=setting.device), masks


def step_of(
    module: nn.Module, batch: tuple[Tensor, Tensor], levers: Levers, *, keep_gradients: bool = False
) -> Callable[[], Tensor]:
    """One step of the optimizer on a batch, which returns its loss."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=levers.fused_optimizer or None)

    def step() -> Tensor:
        prepare_training(batch[0].device, "bf16" if levers.bf16 else "fp32")
        optimizer.zero_grad(set_to_none=not keep_gradients)
        torch.manual_seed(SEED)
        with torch.autocast(batch[0].device.type, torch.bfloat16, levers.bf16):
            loss: Tensor = module(*batch)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


@dataclass(frozen=True)
class Case:
    """A stage at one size: the step's module, the plain one with the same weights, a batch, and the work in so many
    bits a number."""

    title: str
    ours: nn.Module
    plain: nn.Module
    batch: tuple[Tensor, Tensor]
    work: Callable[[int], Work]
    wanted: str = ""


def stage_1(setting: Setting, backbone: str, pixels: int, images: int, count: int, wanted: str = "") -> Case:
    """Stage 1 with at most `count` pixels a class."""
    ours, plain = pair(backbone, setting.device)
    batch = batch_of(setting, images, pixels)
    labels = batch[1][:, ::4, ::4]

    def work(bits: int) -> Work:
        return (
            floors.encoder(ours.spec, pixels, 2 * images, bits=bits)
            + floors.contrast(labels, count, ours.spec.projection, bits=bits)
            + floors.adamw(_parameters(ours))
        )

    title = f"stage 1, {backbone} {pixels} px x {images}"
    return Case(title, Stage1(ours, count), PlainStage1(plain, count), batch, work, wanted)


def stage_2(setting: Setting, backbone: str, pixels: int, images: int, trains: Trains) -> Case:
    """Stage 2, of which `trains` says what is trained."""
    encoder, plain = pair(backbone, setting.device)
    with setting.device:
        head = HEADS["mlp4"](encoder.spec.projection, 1)
    cells = images * (pixels // 4) ** 2

    def work(bits: int) -> Work:
        of_head = floors.head(head, cells, bits=bits) + floors.adamw(_parameters(head))
        if trains == "cached":
            return of_head
        of_encoder = floors.encoder(encoder.spec, pixels, images, bits=bits, backward=trains == "all")
        return of_head + of_encoder + floors.adamw(_parameters(encoder) if trains == "all" else 0)

    return Case(
        f"stage 2 ({trains}), {backbone} {pixels} px x {images}",
        Stage2(encoder, head, trains),
        PlainStage2(plain, copy.deepcopy(head), trains),
        batch_of(setting, images, pixels),
        work,
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def measure(setting: Setting, case: Case) -> Iterator[Row]:
    """A row for each of LEVERS: the step with it beside the step without it, the first beside the plain step.

    Raises WrongValueError where their losses are not the same.
    """
    before = step_of(case.plain, case.batch, Levers())
    for name, levers in LEVERS:
        step = step_of(case.ours, case.batch, levers)
        yield _row(setting, case, name, levers, step, before)
        before = step


def measure_compiled(setting: Setting, case: Case) -> Iterator[Row]:
    """A row for each of COMPILED, the first beside the last of LEVERS. The encoder is compiled and captured as training
    does it; `applied` is 0 where that failed, for a reason on standard error."""
    before = step_of(case.ours, case.batch, LEVERS[-1][1])
    for name, levers in COMPILED:
        module = copy.deepcopy(case.ours)
        applied, captured = accelerated(module, case.batch[0], levers)
        step = step_of(module, case.batch, levers, keep_gradients=captured)
        row = _row(setting, case, name, levers, step, before)
        yield replace(row, more={**row.more, "applied": int(applied)})
        before = step


def accelerated(module: nn.Module, images: Tensor, levers: Levers) -> tuple[bool, bool]:
    """Compile and capture the encoder of a Stage1: whether all that was asked for was done, and whether it is captured.

    Gradients must stay where they are once it is captured.
    """
    from pipelines.training.compile import accelerate

    stage: Any = SimpleNamespace(
        verb="pretrain", localizer=SimpleNamespace(encoder=module.encoder), module=module, passes=2, calls=1
    )
    train = SimpleNamespace(
        compile="blocks" if levers.blocks else "off",
        cuda_graph="on" if levers.graph else "off",
        batch_size=len(images),
        precision="bf16" if levers.bf16 else "fp32",
        sync_batchnorm=False,
    )
    config: Any = SimpleNamespace(
        model=SimpleNamespace(input_size=images.shape[-1]), train=train, finetune=SimpleNamespace(cache=None)
    )
    captured = accelerate(stage, config, images.device)
    compiled = any(getattr(part, "_compiled_call_impl", None) is not None for part in module.modules())
    return compiled >= levers.blocks and captured >= levers.graph, captured


def _row(
    setting: Setting,
    case: Case,
    name: str,
    levers: Levers,
    step: Callable[[], Tensor],
    before: Callable[[], Tensor],
) -> Row:
    _check_loss(f"{case.title}, {name}", step, before, BF16_TOLERANCE if levers.bf16 else TOLERANCE)
    seconds = device_timing.rounds_of(setting, {"ours": step, "plain": before})
    return Row(
        f"{case.title}, {name}",
        seconds["ours"],
        seconds["plain"],
        case.work(16 if levers.bf16 else 32).seconds(setting.peaks),
        len(case.batch[0]),
        case.wanted,
        {"peak_gib": device_timing.peak_gib(setting.device, step), "operators": device_timing.operators(step)},
    )


def _check_loss(name: str, step: Callable[[], Tensor], plain: Callable[[], Tensor], tolerance: float) -> None:
    value, expected = float(step()), float(plain())
    if not abs(value - expected) <= tolerance * abs(expected):
        raise WrongValueError(f"{name}: the loss is {value:.6f}, without it {expected:.6f}")
