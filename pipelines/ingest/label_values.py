"""What the numbers in labels and scribbles mean: the classes of their source, and what its key `values` says.

All labels of a source are looked at before anything is rendered: a number that is no class stops the build, with
examples. Nothing is guessed: an unknown number may be a class that was forgotten, or pixels that nobody labelled.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mpc_model.classes import IGNORED
from mpc_model.errors import DataError
from pipelines.config.build import BuildConfig, SourceConfig
from pipelines.ingest import annotations, listing

_EXAMPLES = 3
_BYTES = 32
"""Of what the survey says of one file: a bit for each number."""


def check(config: BuildConfig, listed: pa.Table, survey: pa.Table) -> None:
    """DataError, with examples and the remedy, for a source with numbers that are neither classes nor 255.

    `listed` (listing.SCHEMA) and `survey` (survey.SCHEMA) have a row for each item.
    """
    for source in config.sources:
        if source.class_names:
            rows = pc.and_(pc.equal(listed["source"], source.name), survey["label_values"].is_valid())
            _check(source, listed.filter(rows), survey["label_values"].filter(rows))


def _check(source: SourceConfig, listed: pa.Table, values: pa.ChunkedArray) -> None:
    classes = annotations.class_of_number(source)
    wrong = np.packbits((classes >= len(source.class_names)) & (classes != IGNORED))
    files: dict[int, list[str]] = {}
    for (mask, scribble), (held,) in zip(
        listing.columns(listed, "mask", "scribble"), listing.columns(pa.table({"held": values}), "held"), strict=True
    ):
        numbers = np.frombuffer(held, np.uint8).reshape(-1, _BYTES) & wrong
        if numbers.any():
            for name, of_file in zip(annotations.label_names(mask, scribble), numbers, strict=True):
                for number in _numbers(of_file):
                    files.setdefault(number, []).append("/".join(name.split("/")[-2:]))
    if not files:
        return
    parts = [
        f"{number} in {len(names)} of them ({', '.join(names[:_EXAMPLES])})"
        for number, names in sorted(files.items())[:_EXAMPLES]
    ]
    more = f" and {len(files) - _EXAMPLES} other numbers" if len(files) > _EXAMPLES else ""
    last = len(source.class_names) - 1
    raise DataError(
        f"source {source.name}: its labels hold numbers that are no class: {', '.join(parts)}{more}; class_names has 0"
        f" ({source.class_names[0]}) to {last} ({source.class_names[last]}): name the others, too, or say in values"
        f' what they stand for, such as values: {{"{min(files)}": 255}} for unlabelled'
    )


def _numbers(bits: npt.NDArray[np.uint8]) -> list[int]:
    """The numbers whose bits are set."""
    numbers: list[int] = np.flatnonzero(np.unpackbits(bits)).tolist()
    return numbers
