"""What sections of a config are made of: the strict base class, kinds of values, and keys that two sections share."""

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from mpc_model.errors import UserError
from pipelines.runtime import uris

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


def absolute(uri: str) -> str:
    """A location made absolute: workers run in other folders and on other machines. ValueError where it cannot be."""
    if uri.startswith("models:/"):
        raise ValueError(f"{uri!r} is a registered model, not a location; only predict.model may be one")
    try:
        return uris.resolved(uri)
    except UserError as error:
        raise ValueError(str(error)) from None


def _output(location: str) -> str:
    """The absolute location, where something is written. ValueError where that cannot be."""
    try:
        return uris.writable(location)
    except UserError as error:
        raise ValueError(str(error)) from None


def _model(uri: str) -> str:
    if not uri.startswith("models:/"):
        return absolute(uri)
    if not _REGISTERED.fullmatch(uri):
        raise ValueError(f"{uri!r} names no registered model; give models:/<name>@<alias> or models:/<name>/<version>")
    return uri


def registered_parts(model: str) -> tuple[str, str, str]:
    """Name, alias and version of models:/name@alias or models:/name/version; what is not given is empty."""
    name, _, alias = model.removeprefix("models:").lstrip("/").partition("@")
    name, _, version = name.partition("/")
    return name, alias, version


_REGISTERED = re.compile(r"models:(//)?/[^/@?#\x00-\x1f\x7f\ud800-\udfff]+([/@][^/@?#\x00-\x1f\x7f\ud800-\udfff]+)?")
Location = Annotated[str, Field(min_length=1), AfterValidator(absolute)]
OutputLocation = Annotated[Location, AfterValidator(_output)]
ModelLocation = Annotated[str, Field(min_length=1), AfterValidator(_model)]
BatchSize = Positive | Literal["auto"]
Precision = Literal["fp32", "bf16"]
SplitName = Literal["train", "validation", "test"]
Quality = Annotated[int, Field(ge=1, le=100)]


def _pattern(pattern: str) -> str:
    """ValueError for what is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_pattern)]


ADDED = "added after outputs of an earlier version were made"
"""Metadata of a key, `key: Annotated[int, ADDED] = 1`: see `Section.identity`."""


class Section(BaseModel):
    """A part of the config: unknown keys are errors, and values are not silently converted between kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    def identity(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """The values that tell one output from another, as JSON: without `exclude`, and without ADDED keys that have
        their default, so that an output from before there was a key is that of a config that does not give it."""
        values = self.model_dump(mode="json", exclude=set(exclude))
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if ADDED in field.metadata and value == field.get_default(call_default_factory=True):
                values.pop(name, None)
            elif name in values and isinstance(value, Section):
                values[name] = value.identity()
            elif name in values and isinstance(value, list) and all(isinstance(one, Section) for one in value):
                values[name] = [one.identity() for one in value]
        return values


class PoolConfig(Section):
    """Workers of `evaluate` and `predict` that each hold the model. None of these keys changes a result."""

    workers: Annotated[int, Field(ge=0)] | tuple[Positive, Positive] | Literal["auto"] = "auto"
    """Workers that each hold the model: a number, or [min, max], between which the pool grows and shrinks with the work
    and the cluster; 0 works in this very process, without Ray; auto: this process for a few images, else from 1 to as
    many as there is work for."""
    cpus_per_worker: Positive | Literal["auto"] = "auto"
    """CPU cores of each worker; auto: 2 on a CPU, and on a GPU its share of the machine's, 8 at most (2 as long as no
    machine of the cluster has a GPU)."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where the model runs: auto takes GPUs where the cluster has any now; gpu asks for them, so that a cluster whose
    GPU machines are not there yet brings them."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "PoolConfig":
        if isinstance(self.workers, tuple) and self.workers[0] > self.workers[1]:
            raise ValueError("workers must be [min, max]")
        return self

    def worker_range(self, tasks: int) -> tuple[int, int]:
        """The smallest and the largest number of workers for so many tasks (1 or more)."""
        least, most = (1, tasks) if self.workers == "auto" else _pair(self.workers)
        return max(1, min(least, tasks)), max(1, min(most, tasks))


def _pair(workers: int | tuple[int, int]) -> tuple[int, int]:
    return workers if isinstance(workers, tuple) else (workers, workers)
