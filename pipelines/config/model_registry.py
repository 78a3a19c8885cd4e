"""The config sections on the way to the registry: evaluation, registration and promotion."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mpc_model.imaging.degradation_sets import SETS, expanded
from pipelines.config.base import (
    ADDED,
    BatchSize,
    Fraction,
    Location,
    OutputLocation,
    Pattern,
    PoolConfig,
    Positive,
    Precision,
    Section,
    SplitName,
)
from pipelines.config.build import SourceConfig


def _is_no_lock(name: str) -> str:
    if re.search(r"\.turn-\d+$", name):
        raise ValueError(f"{name!r} is how locks of the registry are named (model_registry/lock.py); take another")
    return name


RegisteredName = Annotated[
    str, Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$"), AfterValidator(_is_no_lock)
]


def _is_an_alias(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ValueError(f"an alias is letters, digits, _ and -, a letter first, not {name!r}")
    if name.lower() == "latest" or re.fullmatch(r"[vV]\d+", name):
        raise ValueError(f"{name!r} is MLflow's own; take a word such as candidate or champion")
    return name


Alias = Annotated[str, Field(max_length=200), AfterValidator(_is_an_alias)]
"""What MLflow takes for an alias, but for the names that it keeps to itself (latest, v1, v2)."""


Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
"""Text of one line."""


Baseline = Literal["untrained", "everything_forged", "constant_map"]


def _degradations(names: Any) -> Any:
    """A list of names, or one of them, with what is in the sets among them."""
    listed = [names] if isinstance(names, str) else names
    return expanded(listed) if isinstance(listed, list) and all(isinstance(name, str) for name in listed) else listed


class SetConfig(Section):
    """A test set: a split of a pixel dataset, or a source of images, which is built without views."""

    dataset: Location | None = None
    """Pixel dataset."""
    split: SplitName = "test"
    """The split of it that is scored."""
    source: SourceConfig | None = None
    """A source instead, with the keys of build.sources; all of it is scored."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> "SetConfig":
        if (self.dataset is None) == (self.source is None):
            raise ValueError("give either dataset or source")
        if self.source and (self.split != "test" or self.source.split not in (None, "test")):
            raise ValueError("all of a source is scored; leave split out")
        return self


def _with_source_names(sets: Any) -> Any:
    """Sets whose sources have the names of the sets, where they give none."""
    if not isinstance(sets, dict):
        return sets
    return {
        name: one | {"source": {"name": name, **one["source"]}}
        if isinstance(one, dict) and isinstance(one.get("source"), dict)
        else one
        for name, one in sets.items()
    }


class EvaluateConfig(PoolConfig):
    """A model on one split of a dataset, beside two baselines."""

    model: Location | None = None
    """Model directory with a head; left out, that of `finetune.output`."""
    dataset: Location | None = None
    """Pixel dataset to score on; left out, `train.dataset`."""
    split: SplitName = "test"
    """The split that is scored."""
    batch_size: BatchSize = "auto"
    """Images that go through the network at once; auto: what half of a GPU's free memory holds, 64 at most, and one on
    a CPU."""
    precision: Precision = "fp32"
    """bf16 runs the network under autocast; its difference from fp32 is measured on a few images and said."""
    output: OutputLocation | None = None
    """Where metrics, scores and pictures go; left out, `<workspace>/evaluate`."""
    pictures: Annotated[int, Field(ge=0, le=100)] = 6
    """Images drawn beside their masks and maps."""
    gallery: Annotated[int, Field(ge=0, le=5000)] = 500
    """Images that images.parquet has small pictures of: the best, the worst, false alarms, and others at random."""
    robustness: Annotated[list[str], BeforeValidator(_degradations)] = Field(default=SETS["light"])
    """Degradations under which the forged images are scored once more, such as jpeg70, blur1.5 or JRBN, or a set of
    them: light, or paper with 24. Each costs a pass over these images with the model alone, as the evaluation has
    over all; the default is what nearly every image meets on its way."""

    volumes: Annotated[Pattern | None, ADDED] = None
    """For a model of several classes: a regular expression; samples in whose keys it finds the same text, such as a
    patient, are the slices of one volume, in the order of their keys. With a group in parentheses, the text of that."""
    spacing: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3), ADDED] = Field(
        default=[1.0, 1.0, 1.0]
    )
    """Of voxels of volumes: from slice to slice, row to row, column to column; HD95 is in its unit."""

    sets: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,99}$")], SetConfig],
        BeforeValidator(_with_source_names),
        ADDED,
    ] = Field(default={})
    """Test sets by name, instead of `dataset` and `split`: {columbia: {dataset: runs/columbia}, coverage: {source:
    {layout: coverage, location: data/coverage}}}. Each is an evaluation of its own in `<output>/sets/<name>`."""
    threshold: Annotated[Literal["keep", "best_f1", "youden", "false_alarms"], ADDED] = "keep"
    """A rule (mpc_model/evaluation/threshold.py) that chooses the threshold of pixels on the split, which must not be
    a test split. A model with it is written to `<output>/model`."""
    threshold_false_alarms: Annotated[Fraction, ADDED] = 0.01
    """Share of the pixels of authentic images that the rule false_alarms lets be called forged, on average."""

    @model_validator(mode="after")
    def _splits_fit(self) -> "EvaluateConfig":
        if self.threshold != "keep" and self.sets:
            raise ValueError("threshold is chosen on one split, and sets are for tests; leave one of them out")
        if self.sets and self.split != "test":
            raise ValueError(f"split is {self.split}, but each of the sets has a split of its own; leave it out")
        if self.threshold != "keep" and self.split == "test":
            raise ValueError(
                f"threshold is {self.threshold}, and a threshold that is chosen on a test split makes its metrics too"
                " good; set split to validation"
            )
        return self

    @model_validator(mode="after")
    def _spaces_volumes(self) -> "EvaluateConfig":
        if self.spacing != [1.0, 1.0, 1.0] and self.volumes is None:
            raise ValueError("spacing is that of volumes, and no volumes are given; set volumes, or leave it out")
        return self


class CompareConfig(Section):
    """Two models on the same images."""

    output: OutputLocation | None = None
    """Where the comparison goes; left out, a folder in `<workspace>/compare` for each pair of models."""
    min_images: Positive = 20
    """Forged images that a slice must have to be listed."""


class RegisterConfig(Section):
    """A model directory into the MLflow registry."""

    model: Location | None = None
    """Model directory; left out, that of `finetune.output`."""
    evaluation: Location | list[Location] | None = None
    """Folders that `evaluate` wrote, one for each test set; their metrics go into the model version."""
    name: RegisteredName = "mpc-localizer"
    """Of the registered model."""
    alias: Alias = "candidate"
    """The alias that the new version gets."""
    licence: Annotated[Line, Field(min_length=1, max_length=200)] | None = None
    """Of the weights; left out, it is not stated. The licence of published weights is always stated too."""


class PromoteConfig(Section):
    """Move an alias of a registered model to another version, if the gates hold (pipelines/model_registry/gates.py)."""

    name: RegisteredName | None = None
    """The registered model; left out, `register.name`."""
    source: Alias | None = None
    """The alias of the version to promote; left out, `register.alias`."""
    target: Alias = "champion"
    """The alias that moves."""
    datasets: list[Annotated[str, Field(pattern=r"^[0-9a-f]{6,64}$")]] = Field(default=[])
    """Fingerprints of evaluation datasets, or how they begin; left out, all that the target's version has figures on.
    """
    margin: Fraction = 0.0
    """How much worse than the target's version each figure may be."""
    not_worse: bool = False
    """Whether the F1 must be above the target's minus the margin with 95% confidence, by a paired bootstrap over the
    images that both versions were scored on."""
    baselines: list[Baseline] = Field(default=["untrained", "everything_forged", "constant_map"])
    """What the F1 must be above with 95% confidence: the same network untrained, a map that calls every pixel forged,
    the best map that is the same for all images; [] asks for none. Of several classes the Dice is compared, without
    confidence."""
    min_images: Positive = 20
    """Least number of forged images of a test set with an F1."""
    min_f1: Fraction | None = None
    """Least F1 (Dice with several classes) on each test set; null asks for none."""
    robustness_floor: Fraction | None = 0.5
    """Least share of its F1 that the model must keep under every degradation that `evaluate` measured; null asks for
    none."""
    robustness_area: Fraction | None = None
    """Least mean area under the robustness curves that `evaluate` measured; null asks for none."""
    refuse_shortcuts: bool = False
    """Whether what a detector can cheat with in a test set refuses; otherwise it is said with the answers."""
    reason: Annotated[Line, Field(max_length=1000)] = ""
    """Why, in your own words, for the audit trail."""
