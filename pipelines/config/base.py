"""What every section of a config is made of: the strict base class, and the kinds of values."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.runtime import uris

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
# Workers run in other folders and on other machines: locations are made absolute as soon as they are read.
Location = Annotated[str, Field(min_length=1), AfterValidator(uris.absolute)]
ModelLocation = Annotated[
    str,
    Field(min_length=1),
    AfterValidator(lambda uri: uri if uri.startswith("models:/") else uris.absolute(uri)),
]
SplitName = Literal["train", "validation", "test"]
Quality = Annotated[int, Field(ge=1, le=100)]


class Section(BaseModel):
    """A part of the config: unknown keys are errors, and values are not silently converted between kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)
