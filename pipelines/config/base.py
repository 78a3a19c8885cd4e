"""What every section of a config is made of: the strict base class, and the kinds of values."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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


def _model(uri: str) -> str:
    if not uri.startswith("models:/"):
        return absolute(uri)
    if not _REGISTERED.fullmatch(uri):
        raise ValueError(f"{uri!r} names no registered model; give models:/<name>@<alias> or models:/<name>/<version>")
    return uri


_REGISTERED = re.compile(r"models:(//)?/[^/@?#\x00-\x1f\x7f\ud800-\udfff]+([/@][^/@?#\x00-\x1f\x7f\ud800-\udfff]+)?")
Location = Annotated[str, Field(min_length=1), AfterValidator(absolute)]
ModelLocation = Annotated[str, Field(min_length=1), AfterValidator(_model)]
BatchSize = Positive | Literal["auto"]
Precision = Literal["fp32", "bf16"]
SplitName = Literal["train", "validation", "test"]
Quality = Annotated[int, Field(ge=1, le=100)]


class Section(BaseModel):
    """A part of the config: unknown keys are errors, and values are not silently converted between kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)
