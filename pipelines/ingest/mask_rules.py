"""By which rule the masks of a source are read: one for all of them, decided when every mask was surveyed.

A rule that is named, by the source's `mask_rule`, a listing's column or a public set, is followed. Otherwise the levels
of all masks decide (mpc_model.imaging.mask_levels). Masks of a source that contradict each other stop the build; a few
strays are left out, like other bad files.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mpc_model.errors import DataError
from mpc_model.imaging.mask_levels import AUTO, Kind, describe, half, is_white
from pipelines.dataset.manifest import MaskReading
from pipelines.dataset.schema import AUTHENTIC, LABELLED, PHOTO
from pipelines.ingest import annotations, listing, validation
from pipelines.runtime import console

STRAYS = 0.05
"""Masks of other levels than the rest of their source: more than this share of them stop the build."""
_EXAMPLES = 3
_NEAR = 32
"""Levels by which the greys of smooth masks of one source may differ."""
_REMEDY = (
    "correct them, or set mask_rule of the source: bright (above 127 is forged), labels (255 is ignored, any other"
    " label forged), nonzero (all but black is forged), above_N, below_N, red, green"
)
Rows = npt.NDArray[np.intp]


class Decided(NamedTuple):
    """A listing with the rule of every mask, its survey with the masks that are refused, and what was decided."""

    listed: pa.Table
    survey: pa.Table
    readings: dict[str, list[MaskReading]]
    """By source; sources without masks are not in it."""


class _Family(NamedTuple):
    """What the masks have in common that are read alike: fields of MaskLevels."""

    kind: str
    top: int
    colours: int
    indexed: bool
    binary: bool

    def __str__(self) -> str:
        return describe(self.kind, self.top, self.colours)


class _Rule(NamedTuple):
    """A rule, and the masks that it reads: those with the upper level `top` and these colours."""

    name: str
    top: int
    colours: int = 0

    def reads(self, family: _Family, strict: bool = False) -> bool:
        """Whether masks of a family are read by this rule; `strict`: whether they speak for it."""
        kind, top = family.kind, family.top
        if kind == Kind.FLAT:
            return not strict
        if self.name == "labels":
            return kind == Kind.LABELS or (kind, top) == (Kind.TWO, 1) or family.indexed
        if family.colours != self.colours:
            return False
        if self.name == "bright" and self.top > 1:
            return is_white(kind, top) or (kind == Kind.SMOOTH and family.binary and not strict)
        if self.name in ("bright", "nonzero"):
            return (kind, top) == (Kind.TWO, self.top)
        two_or_smooth = kind in (Kind.TWO, Kind.SMOOTH) and not is_white(kind, top)
        return two_or_smooth and top > 1 and abs(top - self.top) <= _NEAR

    def meaning(self, family: _Family) -> str:
        """What the rule says of the levels of a family."""
        if self.name == "labels":
            return "1 is forged, 255 is ignored"
        if family.kind == Kind.SMOOTH:
            return f"what is above {half(self.top)} is forged"
        return f"{family.top} is forged"


def decide(listed: pa.Table, survey: pa.Table) -> Decided:
    """The rules of the masks of all sources, said in the log.

    `listed` (listing.SCHEMA) and `survey` (survey.SCHEMA) have a row for each item. Raises DataError, with examples and
    the remedy, for a source whose masks contradict each other, or whose levels do not say what is forged.
    """
    masks = _Masks(listed, survey)
    readings = {source: found for source in masks.sources if (found := masks.readings(source))}
    for source, of_source in readings.items():
        for reading in of_source:
            _say(source, reading)
    return Decided(masks.decided(), masks.surveyed(), readings)


def given(listed: pa.Table) -> dict[str, dict[str, int]]:
    """The masks of each source whose rule was named, by rule."""
    counts: dict[str, dict[str, int]] = {}
    for source, rule, mask in listing.columns(listed, "source", "mask_rule", "mask"):
        if mask is not None and rule != AUTO:
            of_source = counts.setdefault(source, {})
            of_source[rule] = of_source.get(rule, 0) + 1
    return counts


class _Masks:
    """Columns of a listing and its survey, and what is decided of them."""

    def __init__(self, listed: pa.Table, survey: pa.Table) -> None:
        self._listed, self._survey = listed, survey
        self._source, self.sources = _encoded(listed["source"])
        self._rule, self._rules = _encoded(listed["mask_rule"])
        labelled = np.asarray(pc.equal(listed["kind"], LABELLED).fill_null(False))
        self._has_mask = np.asarray(listed["mask"].is_valid()) & ~labelled  # labels are read as they are
        self._declared_forged = ~np.asarray(pc.is_in(listed["kind"], pa.array([PHOTO, AUTHENTIC])))
        self._read = np.asarray(survey["mask"].is_valid()) & np.asarray(survey["reason"].is_null())
        self._decided: dict[str, str] = {}
        self._refused: dict[int, DataError] = {}

    def readings(self, source: str) -> list[MaskReading]:
        """What is decided of the masks of a source: one for those of no named rule, and one for each that is named."""
        own = (self._source == self.sources.index(source)) & self._has_mask
        readings = []
        for code, rule in sorted(enumerate(self._rules), key=lambda entry: (entry[1] != AUTO, entry[1])):
            rows = np.flatnonzero(own & (self._rule == code))
            if len(rows):
                readings.append(self._judged(source, rows) if rule == AUTO else self._given(rule, rows))
        return readings

    def decided(self) -> pa.Table:
        """The listing with the rules that were decided; where there is no mask, the rule does not matter."""
        rules = [self._decided.get(source, "bright") for source in self.sources]
        by_source = pa.DictionaryArray.from_arrays(self._source, rules).cast(pa.string())
        rule = pc.if_else(pc.equal(self._listed["mask_rule"], AUTO), by_source, self._listed["mask_rule"])
        return self._listed.set_column(self._listed.schema.get_field_index("mask_rule"), "mask_rule", rule)

    def surveyed(self) -> pa.Table:
        """The survey with the masks that are refused: as of other bad items, nothing but reason and message is left."""
        table, refused = self._survey, np.zeros(len(self._survey), np.bool_)
        refused[list(self._refused)] = True
        errors = [self._refused[row] for row in np.flatnonzero(refused).tolist()]
        texts = {"reason": [error.reason for error in errors], "message": [str(error) for error in errors]}
        for at, field in enumerate(table.schema if errors else ()):
            if field.name in texts:
                values = pa.array(texts[field.name], pa.string())
                table = table.set_column(at, field, pc.replace_with_mask(table[field.name], refused, values))
            elif field.name != "mask":
                column = pc.if_else(refused, pa.scalar(None, field.type), table[field.name])
                table = table.set_column(at, field, column)
        return table

    def _judged(self, source: str, rows: Rows) -> MaskReading:
        """Decide the rule of the masks of a source, and refuse those of other levels."""
        read = rows[self._read[rows]]
        columns = (self._column(name, read).to_pylist() for name in _Family._fields)
        families = [_Family(*values) for values in zip(*columns, strict=True)]
        rule = _choose(source, families, lambda number: self._name(int(read[number])))
        counts = Counter(family for family in families if rule.reads(family, strict=True))
        usual = max(counts, key=lambda family: (family.kind == Kind.LABELS, counts[family]), default=None)
        holds = "are of one level each" if usual is None else f"hold {usual}: {rule.meaning(usual)}"
        fitting = np.array([rule.reads(family) for family in families], np.bool_)
        for number in np.flatnonzero(~fitting).tolist():
            row = int(read[number])
            self._refused[row] = DataError(
                f"{self._name(row)} holds {families[number]}, and the masks of source {source} {holds}; save it like"
                " them, or set mask_rule",
                "mask_levels",
            )
        self._decided[source] = rule.name
        return self._reading(rule.name, f"masks {holds}", len(rows), read[fitting])

    def _given(self, rule: str, rows: Rows) -> MaskReading:
        """What came out of a rule that was named."""
        return self._reading(rule, "", len(rows), rows[self._read[rows]])

    def _reading(self, rule: str, evidence: str, masks: int, read: Rows) -> MaskReading:
        """What a rule makes of the masks that it reads. Those that contradict what their images are declared to be are
        refused."""
        counted = {"bright": "bright", "labels": "ones"}.get(rule, "marked") if evidence else "marked"
        forged, pixels = (np.asarray(self._column(name, read), np.int64) for name in (counted, "pixels"))
        ignored = np.asarray(self._column("ignored", read), np.int64) * (rule == "labels")
        declared = self._declared_forged[read]
        for reason, wrong in (
            ("not_authentic", ~declared & (forged > 0)),
            ("empty_mask", declared & (forged == 0)),
            ("full_mask", declared & (forged > 0) & (forged + ignored == pixels)),
        ):
            for row in read[wrong].tolist():
                self._refused[row] = validation.wrong_mask(reason, self._name(row), rule)
        forged_share, ignored_share = (float(np.mean(n / pixels)) if len(read) else 0.0 for n in (forged, ignored))
        return MaskReading(
            rule=rule,
            evidence=evidence,
            masks=masks,
            read=len(read),
            forged=round(forged_share, 4),
            ignored=round(ignored_share, 4),
        )

    def _column(self, name: str, rows: Rows) -> pa.ChunkedArray:
        return pc.struct_field(self._survey["mask"], name).take(rows)

    def _name(self, row: int) -> str:
        return annotations.mask_label(self._listed["mask"][row].as_py()) or ""


def _choose(source: str, families: list[_Family], name: Callable[[int], str]) -> _Rule:
    """The rule that reads most of the masks of a source. `name` gives the file of a mask by its number.

    Raises DataError where no rule reads them, or where more than STRAYS of them are left.
    """
    counts = Counter(family for family in families if family.kind != Kind.FLAT)
    candidates = sorted({rule for family in counts if (rule := _speaks_for(family)) is not None})
    if not counts:
        return _Rule("bright", 255)

    def read_by(rule: _Rule) -> int:
        return sum(count for family, count in counts.items() if rule.reads(family, strict=True))

    best = max(candidates, key=read_by, default=None)
    left = sum(count for family, count in counts.items() if best is None or not best.reads(family))
    if best is not None and left <= STRAYS * counts.total():
        return best
    held: dict[str, list[int]] = {}
    for number, family in enumerate(families):
        if family.kind != Kind.FLAT:
            held.setdefault(str(family), []).append(number)
    sides = [
        f"{len(numbers)} hold {levels} ({', '.join(_short(name(number)) for number in numbers[:_EXAMPLES])})"
        for levels, numbers in sorted(held.items(), key=lambda side: (-len(side[1]), side[0]))[:_EXAMPLES]
    ]
    problem = "its masks contradict each other" if len(sides) > 1 else "its masks do not say what is forged"
    raise DataError(f"source {source}: {problem}: of {len(families)}, {', '.join(sides)}; {_REMEDY}")


def _speaks_for(family: _Family) -> _Rule | None:
    """The rule that masks of a family suggest; None where their levels do not say what is forged."""
    kind, top, colours = family[:3]
    if kind == Kind.LABELS:
        return _Rule("labels", 255)
    if is_white(kind, top):
        return _Rule("bright", 255, colours)
    if kind == Kind.TWO:
        return _Rule("bright" if top == 1 else "nonzero", top, colours)
    return _Rule(f"above_{half(top)}", top, colours) if kind == Kind.SMOOTH else None


def _short(location: str) -> str:
    """The file and its folder: the source says where it is."""
    return "/".join(location.split("/")[-2:])


def _encoded(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], list[str]]:
    """A column of text as codes and what they stand for: as objects, a million names would fill the memory."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices, np.int32), encoded.dictionary.to_pylist()


def _say(source: str, reading: MaskReading) -> None:
    console.say(f"build: source {source}: {reading.sentence()}")
    if reading.forged > 0.5:
        opposite = {"bright": "dark", "dark": "bright"}.get(reading.rule, "below_N or above_N")
        console.warn(
            f"build: source {source}: on average {reading.forged:.0%} of the pixels of its masks are forged; if they"
            f" are the opposite, set mask_rule: {opposite}"
        )
    if reading.ignored > 10 * reading.forged > 0 and reading.evidence:
        console.warn(
            f"build: source {source}: {reading.ignored:.1%} of the pixels are ignored and only {reading.forged:.2%}"
            " forged; if 255 is the forgery, set mask_rule: bright"
        )
