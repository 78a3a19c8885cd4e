"""What the record of each command says of its results, as far as other commands read it back; more keys may be there.

A finished record has every key, an unfinished one those that are known by then.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from pipelines.artifacts.comparison import ComparisonResult
from pipelines.artifacts.evaluation import ClassSummary, PublishedRow, Summary
from pipelines.runtime.documents import Count, RunId, Sha256


class _Begun(TypedDict):
    """Results of an unfinished output."""

    run_id: NotRequired[RunId]
    seconds: NotRequired[Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class _Training(TypedDict):
    """`pretrain`, `finetune` and `adapt`."""

    run_id: RunId
    step: Count
    best: Annotated[list[Count], Field(min_length=1)]
    losses: list[float]
    history: list[dict[str, float]]


class _Evaluation(TypedDict):
    """`evaluate`: metrics.json, and the locations of pictures."""

    model: Summary
    untrained: Summary
    everything_forged: Summary
    threshold: Annotated[float, Field(ge=0, le=1)]
    precision: NotRequired[Literal["fp32", "bf16"]]
    warnings: list[str]
    pictures: list[str]


class _ClassEvaluation(TypedDict):
    """`evaluate` of a model of several classes."""

    model: ClassSummary
    untrained: ClassSummary
    most_frequent: ClassSummary
    classes: Annotated[list[str], Field(min_length=2)]
    precision: NotRequired[Literal["fp32", "bf16"]]
    warnings: list[str]
    pictures: list[str]


class UsedModel(TypedDict):
    """The model that made maps: its location or registered name, and of a registered one its version and the alias that
    it was asked for by; its threshold of pixels, and the advised one of image scores where its card has one."""

    name: str
    version: str | None
    alias: str | None
    digest: Sha256
    threshold: float
    image_threshold: float | None


class _Prediction(TypedDict):
    """`predict`."""

    images: Count
    failed: Count
    seen: Sha256
    scores: str
    model: NotRequired[UsedModel]
    precision: NotRequired[Literal["fp32", "bf16"]]


class _Best(TypedDict):
    number: Count
    parameters: dict[str, Any]


class _Search(_Begun):
    """`tune`."""

    best: _Best
    budget: dict[str, Any]


class _EvaluationOfSets(TypedDict):
    """`evaluate` of several sets."""

    sets: dict[str, _Evaluation]
    averages: Summary
    published: list[PublishedRow]


BEGUN = TypeAdapter(_Begun)
FINISHED: dict[str, TypeAdapter[Any]] = {
    "pretrain": TypeAdapter(_Training),
    "finetune": TypeAdapter(_Training),
    "adapt": TypeAdapter(_Training),
    "evaluate": TypeAdapter(_Evaluation),
    "compare": TypeAdapter(ComparisonResult),
    "predict": TypeAdapter(_Prediction),
    "tune": TypeAdapter(_Search),
}
"""By command; those of others are not read back."""
_BY_CLASS = TypeAdapter(_ClassEvaluation)
_OF_SETS = TypeAdapter(_EvaluationOfSets)


def finished(verb: str, results: object) -> TypeAdapter[Any]:
    """What the results of a finished output of a command have to be; `results` tells which evaluation it was."""
    if verb == "evaluate" and isinstance(results, dict) and "classes" in results:
        return _BY_CLASS
    if verb == "evaluate" and isinstance(results, dict) and "sets" in results:
        return _OF_SETS
    return FINISHED.get(verb, BEGUN)
