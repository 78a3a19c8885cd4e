"""The config sections of training: the network, what both stages share, and each stage's own settings."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from mpc_model.classes import check_classes
from mpc_model.errors import UserError
from pipelines.config.base import ADDED, Location, OutputLocation, Positive, Section
from pipelines.config.pclmix import PCLMixConfig

Weight = Annotated[float, Field(ge=0)]


def _off_or(true: str) -> Callable[[Any], Any]:
    """Reads the false of YAML, which `off` is, as off, and its true, which `on` is, as the word given."""
    return lambda value: (true if value else "off") if isinstance(value, bool) else value


class ModelConfig(Section):
    """The network. `input_size` is the side that images are resized to; null keeps their own size."""

    backbone: str = "hrformer_base"
    """The encoder: hrformer_tiny, hrformer_small, hrformer_base or another registered backbone."""
    head: str = "mlp4"
    """The decoder of stage 2: mlp4, mscc or another registered head."""
    head_settings: Annotated[dict[str, bool | int | float | str], ADDED] = Field(default={})
    """Settings of the head by name, such as {frequencies: 4} of mscc; what is left out is as the head has it."""
    input_size: Annotated[int, Field(ge=32, le=4096)] | None = 512
    """Side in pixels that images are resized to; null keeps their own size."""
    classes: Annotated[int, ADDED] = 1
    """Logits of a pixel in stage 2: 1 says how likely it was forged, K of 2 and more how likely it is of each of the K
    classes of the dataset."""
    class_names: Annotated[list[str], ADDED] = Field(default=[])
    """Of several classes, in the order of their labels; left out, those of the dataset."""

    @model_validator(mode="after")
    def _has_its_names(self) -> "ModelConfig":
        try:
            check_classes(self.classes, self.class_names)
        except UserError as error:
            raise ValueError(str(error)) from None
        return self


class TrainConfig(Section):
    """What both training stages share."""

    dataset: Location | None = None
    """Pixel dataset to train on; left out, `build.output`."""
    workers: Annotated[int, Field(ge=0)] | tuple[Positive, Positive] = 1
    """Ray Train workers; [min, max] trains with as many as the cluster has at the moment; 0 trains in this very
    process, without Ray."""
    cpus_per_worker: Positive = 1
    """CPU cores of each worker."""
    gpus_per_worker: Annotated[float, Field(gt=0, le=1)] = 1.0
    """GPUs of each worker that trains on one. Below 1 several trials of a search, or several jobs, share a GPU."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where workers train: auto takes GPUs where every worker can have one."""
    batch_size: Positive = 4
    """Samples per worker and forward pass."""
    accumulate: Positive = 1
    """Forward passes whose gradients are averaged into one step of the optimizer."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the network under autocast; weights, losses and the optimizer stay in fp32."""
    compile: Annotated[Literal["auto", "off", "blocks", "full"], BeforeValidator(_off_or("full"))] = "auto"
    """Compile the backbone by torch.compile: its blocks, which share code, or all of it; auto: blocks on a GPU. Where
    that fails, training says so and goes on without."""
    cuda_graph: Annotated[Literal["auto", "on", "off"], BeforeValidator(_off_or("on"))] = "auto"
    """Replay the backbone's passes as CUDA graphs; auto: on a GPU. Where that fails, training says so and goes on
    without."""
    sync_batchnorm: bool = False
    """Batch statistics over all workers instead of each worker's own."""
    loader_threads: Positive | Literal["auto"] = "auto"
    """Threads of each worker that decode samples; auto takes as many as the worker has cores, from 2 to 16. However
    many there are, what the loader holds for later steps stays below 512 MiB."""
    checkpoint_every: Positive | None = None
    """Steps between checkpoints, besides one at the end of each epoch."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Worker groups that may be lost and restarted from the last checkpoint; preempted ones do not count."""
    preemption_grace_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds that the other workers may go on after the announced time of a machine, to end what they write."""
    relax_collectives_on_preemption: bool = False
    """Let checkpoints be reported without the workers of a machine that is taken away, unless it has the first one."""
    accelerator_type: str | None = None
    """Kind of accelerator that workers need, by Ray's name, such as H100; null takes any."""
    label_selector: dict[str, str] = Field(default={})
    """Labels of the machines that workers need, such as {ray.io/market-type: spot}."""
    placement_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """Where workers go: on few machines or on many; STRICT waits where that is impossible."""
    collective_timeout_s: Positive = 1800
    """Seconds after which workers that wait for each other in NCCL or gloo fail, and start again."""
    nccl: dict[str, str | int] = Field(default={})
    """Variables of NCCL, gloo and torch.distributed for the workers, such as {NCCL_SOCKET_IFNAME: eth0}."""
    validation_images: Positive = 256
    """Images of the validation split that are scored after each epoch, at most."""
    async_validation: bool = False
    """Validate while training goes on, on resources of its own: an epoch's metrics are known at the end of the next."""
    pictures_every: Positive | None = 1000
    """Steps between pictures of the feature space and of predictions on fixed validation images; null draws none."""

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainConfig":
        min_workers, max_workers = self.worker_range
        if min_workers > max_workers:
            raise ValueError("workers must be [min, max]")
        if self.gpus_per_worker < 1 and max_workers > 1:  # NCCL refuses two ranks on one GPU
            raise ValueError(
                "gpus_per_worker below 1 is for one worker; set workers to 1 or 0, or gpus_per_worker to 1"
            )
        if self.async_validation and max_workers == 0:
            raise ValueError("async_validation needs Ray workers; set workers to 1 or more, or turn it off")
        if max_workers == 0 and (given := [key for key in WORKER_KEYS if getattr(self, key) != _default(key)]):
            raise ValueError(f"{given[0]} is for Ray workers; set workers to 1 or more, or leave it out")
        if self.accelerator_type and self.accelerator == "cpu":
            raise ValueError("accelerator_type names a kind of GPU, but accelerator is cpu; leave one of them out")
        if other := next((name for name in self.nccl if not name.startswith(_NCCL)), None):
            raise ValueError(f"nccl: {other} is not one of its variables: {', '.join(f'{name}*' for name in _NCCL)}")
        if self.sync_batchnorm and max_workers < 2:
            raise ValueError("sync_batchnorm needs 2 workers or more; with fewer there is nothing to synchronise")
        return self

    @property
    def worker_range(self) -> tuple[int, int]:
        """The smallest and the largest number of workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)

    @property
    def machines(self) -> str:
        """Which machines workers need, in words (" with train.accelerator_type H100"); empty where any will do."""
        conditions = [f"train.accelerator_type {self.accelerator_type}"] if self.accelerator_type else []
        if self.label_selector:
            labels = ", ".join(f"{name}: {value}" for name, value in self.label_selector.items())
            conditions.append(f"train.label_selector {{{labels}}}")
        if self.placement_strategy.startswith("STRICT"):
            conditions.append(f"train.placement_strategy {self.placement_strategy}")
        return f" with {' and '.join(conditions)}" if conditions else ""


WORKER_KEYS = (
    "preemption_grace_s",
    "relax_collectives_on_preemption",
    "accelerator_type",
    "label_selector",
    "placement_strategy",
    "collective_timeout_s",
    "nccl",
)
"""Keys that only Ray's workers have a use for; they do not change what is learnt."""
_NCCL = ("NCCL_", "GLOO_", "TORCH_NCCL_", "TORCH_GLOO_", "TORCH_DISTRIBUTED_")


def _default(key: str) -> Any:
    return TrainConfig.model_fields[key].default


class OptimConfig(Section):
    """Optimizer and schedule of one stage."""

    PROTOCOLS: ClassVar[dict[str, dict[str, Any]]] = {}
    """The settings that `protocol` sets, by name: those of the paper, and of its public release where that differs."""

    protocol: Literal["paper", "release"] | None = None
    """Optimizer, learning rate, weight decay, schedule and floor as published; keys that are given win."""
    epochs: Positive = 20
    """Passes over the training split."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    """adam and sgd couple weight decay to the gradient, adamw does not."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Largest learning rate of the schedule."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of the optimizer."""
    momentum: Annotated[float, Field(ge=0, lt=1), ADDED] = 0.9
    """Of optimizer sgd: the share of the last step's direction that the next one keeps."""
    schedule: Literal["constant", "cosine", "cosine20", "plateau", "poly"] = "cosine"
    """pipelines/training/schedules.py says what each does."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises linearly to what the schedule says."""
    floor: Annotated[float, Field(ge=0)] = 1e-8
    """Smallest learning rate of the falling schedules."""
    power: Annotated[float, Field(gt=0), ADDED] = 0.9
    """Of schedule poly: the exponent; 1 falls along a line."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest gradient norm."""
    patience: Positive | None = None
    """Stop when the monitored validation metric has not risen for so many epochs."""

    @model_validator(mode="before")
    @classmethod
    def _protocol_fills_in(cls, values: Any) -> Any:
        preset = cls.PROTOCOLS.get(str(values.get("protocol")), {}) if isinstance(values, dict) else {}
        return {**preset, **values} if preset else values

    @model_validator(mode="after")
    def _floor_is_below(self) -> "OptimConfig":
        if self.schedule != "constant" and self.floor > self.learning_rate:
            raise ValueError("floor must not be above learning_rate")
        return self


class PretrainConfig(OptimConfig):
    """Stage 1: the backbone, by multi-view pixel contrast. mpc_model/losses/contrast.py tells more of every setting."""

    PROTOCOLS: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 0.0, "schedule": "plateau"},
        "release": {"optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 0.01, "schedule": "plateau"},
    }

    output: OutputLocation | None = None
    """Folder or s3:// prefix of the run; left out, `<workspace>/pretrain`."""
    initial: Location | None = None
    """A published checkpoint (ImageNet or MPC) to start from."""
    objective: str = "release"
    """Form of the contrast: release (as published code has it) or paper."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Divides the similarities: the smaller, the more the nearest negatives count."""
    learn_temperature: bool = False
    """Train the temperature with the weights, from `temperature` on."""
    anchors: Literal["authentic", "both"] | None = None
    """Classes of the anchors; null takes the objective's own (release: authentic, paper: both)."""
    anchors_per_class: Positive = 5000
    """Maximum number of pixels of a class each time one is sampled."""
    sampler: str = "uniform"
    """How pixels are drawn: uniform, balanced, boundary or hard_negative."""
    boundary_width: Annotated[float, Field(gt=0)] = 4.0
    """Sampler boundary: how fast the chance of a pixel falls with its distance to the mask's edge, in feature cells."""
    hardness: Annotated[float, Field(ge=0)] = 5.0
    """Sampler hard_negative: a negative's chance grows with exp(hardness * cosine to the anchors' mean)."""
    negatives: Literal["image", "batch", "ranks"] = "image"
    """Whose pixels are negatives: the anchor's own image's, also the batch's other images', or also other workers'."""
    shared_negatives: Positive = 256
    """Pixels of each class that an image gives to the other images as negatives."""
    gather_gradients: bool = True
    """Whether gradients flow back to the image that a shared negative is from."""
    second_pass: Literal["depth", "view"] = "depth"
    """What makes the second pass differ: stochastic depth alone (the paper), or also another stored view."""
    weights: tuple[Weight, Weight, Weight] = (1.0, 1.0, 1.0)
    """Of the within-image, cross-scale and cross-modality losses. Without the last there is no second pass."""

    @model_validator(mode="after")
    def _weighs_something(self) -> "PretrainConfig":
        if not any(self.weights):
            raise ValueError("weights are all 0: nothing would be learnt; give one of the losses a weight")
        return self


class PartWeights(Section):
    """What the losses of a head's parts weigh; a head without a part has no loss of it."""

    mask: Weight = 1.0
    """The map itself, by `finetune.loss`."""
    coarse: Weight = 1.0
    """A coarser map, by `finetune.loss`."""
    image: Weight | None = None
    """Whether the image was forged, by cross-entropy; left out, 1 beside `loss: cross_entropy`, as published, and 0.05
    beside `focal`, whose values are so much smaller that the backbone would learn from images' labels alone."""


class FinetuneConfig(OptimConfig):
    """Stage 2: the head on the frozen features of stage 1, or the whole network, by a segmentation loss."""

    PROTOCOLS: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 0.0, "schedule": "cosine"},
        "release": {"optimizer": "adamw", "learning_rate": 1e-6, "weight_decay": 0.01, "schedule": "cosine20"},
    }

    output: OutputLocation | None = None
    """Folder or s3:// prefix of the run; left out, `<workspace>/finetune`."""
    encoder: Location | None = None
    """Model directory to start from: stage 1's, or a localizer's."""
    start: Literal["encoder", "localizer", "scratch"] = "encoder"
    """What is taken from there: the backbone, both backbone and head, or nothing (end to end from fresh weights)."""
    unfreeze: Literal["head", "all"] = "head"
    """What is trained: the head on frozen features, or the whole network."""
    backbone_rate: Annotated[float, Field(gt=0)] = 0.1
    """With `unfreeze: all`, the backbone's learning rate over the head's."""
    supervision: Annotated[str, ADDED] = "mask"
    """What is learnt from: mask (the whole mask of each image) or another registered supervision."""
    pclmix: Annotated[PCLMixConfig, ADDED] = PCLMixConfig()
    """Settings of supervision pclmix."""
    cache: OutputLocation | None = None
    """Folder in which the frozen features of each stored view are stored when they are first computed."""
    loss: Annotated[str, ADDED] = "focal"
    """How far maps are from masks: focal, cross_entropy or another registered loss."""
    part_weights: Annotated[PartWeights, ADDED] = PartWeights()
    """What the losses of a head's parts weigh, where it has more than its map."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Weight of forged pixels in the focal loss, or of all classes but the first; the others have 1 - alpha."""
    gamma: Annotated[float, Field(ge=0)] = 2.0
    """How much the focal loss plays down pixels that are already right."""

    @model_validator(mode="after")
    def _trains_what_is_fresh(self) -> "FinetuneConfig":
        if self.start == "scratch" and self.unfreeze == "head":
            raise ValueError("start is scratch, but the backbone would stay frozen as it is; set unfreeze to all")
        if self.cache and self.unfreeze == "all":
            raise ValueError("cache keeps frozen features; with unfreeze all they change at every step: leave it out")
        return self


class AdaptConfig(OptimConfig):
    """A localizer adapts to images without labels; docs/pppc.md tells more of every setting."""

    PROTOCOLS: ClassVar[dict[str, dict[str, Any]]] = {
        "release": {
            "optimizer": "adamw",
            "learning_rate": 6e-5,
            "weight_decay": 0.01,
            "schedule": "poly",
            "power": 1.0,
            "floor": 0.0,
            "warmup_steps": 1500,
        },
    }

    protocol: Literal["release"] | None = None
    """Optimizer, learning rate, weight decay, schedule and warm-up as published; keys that are given win."""
    output: OutputLocation | None = None
    """Folder or s3:// prefix of the run; left out, `<workspace>/adapt`."""
    start: Location | None = None
    """Model directory of the localizer to start from; left out, that of `finetune.output`."""
    target: Location | None = None
    """Pixel dataset of the images to adapt to; it must be given. Its training split is used, without its labels."""
    validate_on: Literal["source", "target"] = "source"
    """Whose validation split chooses the best epoch; that of the target needs labels."""
    method: str = "pppc"
    """How: pppc (pseudo labels and contrast to prototypes), self_training (pseudo labels), none (the source alone) or
    another registered method."""
    head_rate: Annotated[float, Field(gt=0)] = 10.0
    """The learning rate of the head, and of the mean branch of pppc, over the backbone's."""
    forged_weight: Annotated[float, Field(gt=0)] = 1.0
    """What a forged pixel weighs in the cross-entropy of a localizer of forgeries; an authentic one weighs 1."""
    teacher_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """How much of the teacher stays at a step, at most: the teacher is the average of the student's weights."""
    confidence: Annotated[float, Field(gt=0, le=1)] = 0.968
    """Pixels whose pseudo label is that likely are confident; their share weighs all pseudo labels of a step."""
    mix: str | None = None
    """What of the source is pasted into the target: classes (half of them), forged (forged regions alone) or ignored
    (as classes, without labels where a splice would be called authentic); null: forged for forgeries, else classes."""
    crop: Annotated[int, Field(ge=32, le=4096)] | None = None
    """Side in pixels of crops of both domains, at the scale of model.input_size; null trains on whole images."""
    crop_candidates: Positive = 10
    """Crops of a target image of which pppc takes the one with the most ambiguous classes; 1 takes a random one."""
    rare_classes: Annotated[float, Field(gt=0)] | None = None
    """Draw source images by class, rare ones more often: classes by softmax((1 - share of pixels) / this value); null
    shows each image once an epoch."""
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """How much colours change, 0.2 in the release; 0 for forgeries, whose traces that harms."""
    blur: bool = False
    """Blur half of the batches a little, as the release does; it harms the traces of forgeries."""
    embedding: Positive = 256
    """Dimensions of the Gaussian embedding of a pixel (the release: 512)."""
    similarity: str = "elk"
    """Similarity of a pixel and a prototype: elk (expected likelihood of two Gaussians), cosine, or another one."""
    prototypes: str = "harmonic"
    """Rule that makes prototypes of pixels: harmonic, pooled, or another registered one."""
    prototype_decay: Annotated[float, Field(gt=0, le=1)] = 0.999
    """How much of earlier steps stays in the prototypes at a step; 1 counts all pixels ever seen alike."""
    temperature: Annotated[float, Field(gt=0)] = 100.0
    """Divides the similarities; at 100, as published, the loss can hardly fall (docs/pppc.md), at 0.01 to 1 it can."""
    contrast_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the contrast and of the divergence together, before the ramp."""
    divergence_weight: Annotated[float, Field(ge=0)] = 1e-6
    """Weight of the divergence of the embeddings from the standard normal distribution, which is a sum over pixels."""
    contrast_from: Annotated[float, Field(ge=0, lt=1)] = 0.075
    """The share of training after which the contrast begins (the release: step 3,000 of 40,000)."""
    ramp: Annotated[float, Field(ge=0)] = 1.0
    """How fast the contrast fades with the share t of training: exp(-ramp t^2); the release: 1, day to night 10."""
