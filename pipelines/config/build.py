"""The config sections of `mpc build`: sources, forging, splits, views and the dataset itself."""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mpc_model.classes import IGNORED, check_classes
from mpc_model.errors import UserError
from mpc_model.imaging.forge_settings import ForgeSettings
from pipelines.config.base import (
    ADDED,
    Fraction,
    Location,
    OutputLocation,
    Pattern,
    Positive,
    Quality,
    Section,
    SplitName,
)


def _forge_setting(name: str) -> Any:
    """A field with the default and the meaning that `ForgeSettings` gives it."""
    field = ForgeSettings.__dataclass_fields__[name]
    about = field.metadata
    description = f"{about['meaning']} ({about['unit']}, {about['minimum']:g} to {about['maximum']:g})"
    return Field(default=field.default, description=description[0].upper() + description[1:])


class ForgeConfig(Section):
    """How photographs are forged. Shares are of all samples; what is left stays authentic.

    Every range is [least, largest]; ForgeSettings (imaging/forge_settings.py) says what it means and how far it may go.
    """

    splice: Fraction = 0.2
    """An object of another photograph of the same split, pasted."""
    copy_move: Fraction = 0.2
    """An object of the photograph itself; where objects are not known, a random outline."""
    copy_move_outline: Fraction = 0.2
    """A random curved outline of the photograph itself."""
    remove: Fraction = 0.15
    """An object or outline, inpainted."""
    area: tuple[Fraction, Fraction] = _forge_setting("area")
    feather: tuple[int, int] = _forge_setting("feather")
    scale: tuple[float, float] = _forge_setting("scale")
    rotation: tuple[float, float] = _forge_setting("rotation")
    shear: tuple[float, float] = _forge_setting("shear")
    flip: Fraction = _forge_setting("flip")
    gain: tuple[float, float] = _forge_setting("gain")
    offset: tuple[float, float] = _forge_setting("offset")
    noise_sigma: tuple[float, float] = _forge_setting("noise_sigma")
    donor_quality: tuple[int, int] = _forge_setting("donor_quality")
    remove_margin: tuple[int, int] = _forge_setting("remove_margin")
    inpaint_radius: tuple[int, int] = _forge_setting("inpaint_radius")
    telea: Fraction = _forge_setting("telea")
    final_quality: tuple[Quality, Quality] | None = None
    """JPEG quality of the finished sample, forged and authentic alike; null stores what was forged without loss."""

    @model_validator(mode="after")
    def _is_possible(self) -> "ForgeConfig":
        if self.splice + self.copy_move + self.copy_move_outline + self.remove > 1 + 1e-9:
            raise ValueError(
                "splice + copy_move + copy_move_outline + remove must not exceed 1 (what is left stays authentic)"
            )
        if self.final_quality and self.final_quality[0] > self.final_quality[1]:
            raise ValueError("final_quality must be [least, largest]")
        try:
            self.settings()
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    def settings(self) -> ForgeSettings:
        """The ranges as the forging functions take them."""
        return ForgeSettings(
            **{
                field.name: getattr(self, field.name)
                for field in dataclasses.fields(ForgeSettings)
                if field.name in type(self).model_fields
            }
        )


class SplitConfig(Section):
    """Shares of the scenes (photographs with all that was made of them) that go to each split."""

    train: Fraction = 0.8
    """Share that trains."""
    validation: Fraction = 0.1
    """Share that chooses the epoch whose model is kept."""
    test: Fraction = 0.1
    """Share that `evaluate` scores by default."""

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> "SplitConfig":
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError("train + validation + test must be 1")
        return self


def _with_numbers(values: Any) -> Any:
    """Keys as whole numbers, which JSON has as text."""
    if not isinstance(values, dict):
        return values
    return {int(key) if isinstance(key, str) and key.isdigit() else key: value for key, value in values.items()}


Level = Annotated[int, Field(ge=0, le=255)]


class SourceConfig(Section):
    """Where samples come from. `layout` names how files become samples (ingest/layouts.py, public_sets.py)."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=200)]
    """Of the source in keys of samples, counts and reports; lower-case letters, digits, _ and -."""
    layout: str
    """How files become samples: photos, coco, pairs, indexed, unlabelled, or a public set by its name."""
    location: Location | list[Location]
    """A folder, an s3:// prefix or a list file, or several."""
    annotations: Location | None = None
    """Objects of the photographs (layout coco): a folder of index maps, or a COCO instances file."""
    repeat: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Its weight: times a sample is drawn in an epoch (the paper's x40, x20). Nothing is copied."""
    limit: Positive | None = None
    """At most so many photographs or pairs, drawn by the seed."""
    split: SplitName | SplitConfig | None = None
    """All into one split, or shares of its own; left out, `build.split` says."""
    crop: Annotated[int, Field(ge=32)] | None = None
    """Side of square crops in pixels (layouts photos, coco); left out, photographs are used whole."""
    samples_per_photo: Positive = 1
    """Samples made of each photograph (layouts photos, coco)."""
    forge: ForgeConfig = ForgeConfig()
    """How samples are forged (layouts photos, coco)."""
    mask_rule: str = "auto"
    """How masks are read, where a listing does not say it: bright, dark, labels, nonzero, red, green, above_N, below_N,
    or auto: as the levels of all its masks tell."""
    class_names: Annotated[list[str], ADDED] = Field(default=[])
    """Classes of the labels (layout indexed), in the order of their numbers: the first one is 0."""
    values: Annotated[dict[Level, Level], BeforeValidator(_with_numbers), ADDED] = Field(default={})
    """Numbers in files of labels and scribbles that stand for another class, or for 255, unlabelled: {"11": 255}."""
    scribbles: Annotated[Literal["drawn"] | None, ADDED] = None
    """drawn: a scribble of each sample is drawn from its mask; left out, those in scribbles/ are used (layout
    indexed)."""
    only: Annotated[Pattern | None, ADDED] = None
    """A regular expression: items are taken whose name, the path below the location, has a match."""
    level_files: Annotated[bool, ADDED] = False
    """Recompress every image, forged and authentic alike, as JPEG of a quality drawn by the seed (70 to 90), so that
    the kind of file does not tell the classes apart (images with masks, such as layout pairs)."""
    group: Annotated[Pattern | None, ADDED] = None
    """A regular expression: items of which it finds the same text in their names, such as a patient, share a split.
    With parentheses, the text in them counts."""

    @model_validator(mode="after")
    def _has_classes_where_it_needs_them(self) -> "SourceConfig":
        indexed = self.layout == "indexed"
        if indexed and len(self.class_names) < 2:
            raise ValueError(
                "layout indexed needs class_names: two or more names in the order of their numbers, such as"
                " [background, ventricle]"
            )
        if indexed:
            try:
                check_classes(len(self.class_names), self.class_names)
            except UserError as error:
                raise ValueError(str(error)) from None
        if not indexed and (key := next((key for key in ("class_names", "values") if getattr(self, key)), None)):
            raise ValueError(f"{key} is for layout indexed, and layout is {self.layout}; leave it out")
        if indexed and self.mask_rule != "auto":
            raise ValueError("mask_rule is for masks of forged pixels; for the labels of layout indexed set values")
        for value, number in self.values.items():
            if number != IGNORED and number >= len(self.class_names):
                raise ValueError(
                    f"values maps {value} to {number}, but class_names has {len(self.class_names)} names; name a class"
                    f" from 0 to {len(self.class_names) - 1}, or 255, unlabelled"
                )
        return self


class ViewsConfig(Section):
    """Renderings stored beside the canonical one (view 0)."""

    policy: str = "release"
    """Which renderings are drawn: light, release or another registered policy."""
    count: Annotated[int, Field(ge=0, le=64)] = 3
    """Stored views besides the canonical one."""


class BuildConfig(Section):
    """A pixel dataset and the sources it is built from."""

    sources: list[SourceConfig] = Field(default=[])
    """Where samples come from; a build needs at least one."""
    output: OutputLocation | None = None
    """Folder or s3:// prefix of the dataset; left out, `<workspace>/dataset`."""
    split: SplitConfig = SplitConfig()
    """Shares of the scenes that go to each split."""
    views: ViewsConfig = ViewsConfig()
    """Renderings stored beside the canonical one."""
    shard_samples: Positive = 256
    """Samples in one Parquet file at most."""
    row_group: Annotated[int, Field(ge=1, le=256)] = 16
    """Samples in one row group, the unit that a reader fetches."""
    max_reject_fraction: Fraction = 0.05
    """More bad samples than this share stop the build, before anything is rendered. Photographs that could not be
    forged (too flat, too small) are left out and counted, too, when all is rendered."""
    max_pixels: Positive = 100_000_000
    """Larger images are rejected by their headers: decoding one could take all memory."""
    near_duplicates: Literal["stop", "together"] = "stop"
    """What to do when near-duplicates would come into different splits: stop the build, or keep them together."""
    near_duplicate_bits: Annotated[int, Field(ge=0, le=8)] = 4
    """Images are near-duplicates when their 64-bit difference hashes differ in at most so many bits, and 256 finer bits
    agree (pipelines/dataset/duplicates.py)."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> "BuildConfig":
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"two sources share a name: {', '.join(names)}")
        indexed = [source for source in self.sources if source.class_names]
        if other := next((source for source in indexed if source.class_names != indexed[0].class_names), None):
            raise ValueError(
                f"sources {indexed[0].name} and {other.name} have different class_names; a dataset has one list of them"
            )
        return self

    @property
    def classes(self) -> list[str]:
        """The classes of the index masks of its sources; none where masks say what is forged."""
        return next((source.class_names for source in self.sources if source.class_names), [])
