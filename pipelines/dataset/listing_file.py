"""A listing: a CSV or Parquet file that names an image a row, as spreadsheets, pandas and scripts write them.

`mpc build` reads all of its columns (`rows`), `mpc predict` the images alone, also from a text file (`locations`).

A text file is UTF-8, or UTF-16 with a byte order mark. Of comma, semicolon and tab, the first that makes a column
`image` of the header separates its cells. It is read by Python's csv module: a cell may hold several lines (masks), and
Arrow's reader, which is faster, loses line ends in such cells where two of its blocks meet (apache/arrow#51368).

Nothing is guessed that would change what an image is: a row with a cell too few, a column that is nearly `mask`, or the
word "nan" in a cell is refused, with line and column.
"""

import codecs
import csv
import difflib
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice

import pyarrow as pa
import pyarrow.parquet as pq

from mpc_model.errors import UserError
from pipelines.runtime import console, storage, uris

COLUMNS = ("image", "mask", "kind", "split", "group", "mask_rule", "name")
SUFFIXES = (".csv", ".tsv", ".parquet")
TEXT = ".txt"
"""How the name of a text file with one location a line ends."""
Row = tuple[str, dict[str, str]]
"""Where the row is (for errors), and its cells by column: stripped, without the empty ones."""

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_OTHER_FORMATS = {
    b"PK\x03\x04": "a workbook or an archive; save it as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "a workbook; save it as CSV (UTF-8)",
    b"\x1f\x8b": "compressed; unpack it",
    b"PAR1": "Parquet; give it the ending .parquet",
}
"""How files begin that are no text, each with what they are and the remedy."""
_LONGEST_LINE = 1 << 20
_LONGEST_CELL = 1 << 20
"""Characters; a cell of masks may have many lines."""
_HEADER_LINES = 32
"""Lines in which the header is looked for."""
_NO_VALUE = {"nan", "nat", "none", "null", "<na>", "#n/a", "na", "n/a"}
"""What programs write for an empty cell. As a path it is no file; as a group it would join all such rows."""
_NAMED_SEPARATOR = re.compile(r'"?sep=(?P<separator>[^\w"\r\n])"?(?P=separator)*(?P<end>[\r\n]*)')
_NAMES = {"na", "n/a"}
"""Those that may also be a name: in `group` and `name` they are kept."""
_WINDOWS = re.compile(r"(?:[A-Za-z]:)?\\|[A-Za-z]:/")
"""How an absolute path of Windows begins."""


def is_listing(location: str) -> bool:
    """Whether a location has the name of a listing, or of a text file that `locations` reads."""
    return location.lower().endswith((*SUFFIXES, TEXT))


def locations(uri: str) -> Iterator[str]:
    """The locations of the images that a listing, or a text file with one a line, names, in its order; those without
    scheme and leading `/` are relative to its folder. UserError as `rows`."""
    folder = uri.rsplit("/", 1)[0]
    if uri.lower().endswith(TEXT):
        with storage.open_input(uri) as stream:
            encoding = "UTF-16" if stream.peek(4)[:4].startswith(_UTF16) else "UTF-8"
            for number, line in enumerate(_lines(uri, stream, encoding), 1):
                if text := line.strip():
                    yield _location(f"listing {uri}, line {number}", folder, text)
        return
    for place, cells in rows(uri, ("image",)):
        if "image" not in cells:
            raise UserError(f"{place}, column image: the row names no image")
        yield _location(f"{place}, column image", folder, cells["image"])


def _location(place: str, folder: str, text: str) -> str:
    try:
        return uris.from_folder(folder, text)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def rows(uri: str, columns: Sequence[str] = COLUMNS) -> Iterator[Row]:
    """The rows of a listing in its order, a few thousand in memory at a time.

    Upper case and spaces around a column's name do not matter. Columns that are not in `columns` are passed over; where
    all of COLUMNS are read, one line names them. Raises UserError, naming line (Parquet: row) and column, for what
    cannot be read or would have to be guessed.
    """
    if not storage.exists(uri):
        what = "is a folder; a listing is one file" if storage.folder_exists(uri) else "is not there"
        raise UserError(f"listing {uri} {what}; set its location")
    listed = _parquet_rows(uri, columns) if uri.lower().endswith(".parquet") else _text_rows(uri, columns)
    return _with_slashes(uri, listed)


def _text_rows(uri: str, columns: Sequence[str]) -> Iterator[Row]:
    with storage.open_input(uri) as stream:
        yield from _rows_of_text(uri, stream, columns)


def _rows_of_text(uri: str, stream: io.BufferedReader, columns: Sequence[str]) -> Iterator[Row]:
    begin = stream.peek(4)[:4]
    for magic, remedy in _OTHER_FORMATS.items():
        if begin.startswith(magic):
            raise UserError(f"listing {uri} is {remedy}")
    encoding = "UTF-16" if begin.startswith(_UTF16) else "UTF-8"
    lines = _lines(uri, stream, encoding)
    head = list(islice(lines, _HEADER_LINES))
    separator = _named_separator(head) or _separator(head)
    parsed = _parsed(uri, chain(head, lines), separator)
    header = next((cells for _, cells in parsed if any(cells)), [])
    known = _known_columns(uri, header, columns)
    if encoding != "UTF-8" or separator != ",":
        shown = _SEPARATORS.get(separator, repr(separator))
        console.say(f"listing: {uri} is read as {encoding} text separated by {shown}")
    for number, cells in parsed:
        place = f"listing {uri}, line {number}"
        if not any(map(str.strip, cells)):
            continue
        if len(cells) < len(header) or any(cells[len(header) :]):
            raise UserError(
                f"{place}: it has {len(cells)} cells, and the header {len(header)};"
                " quote cells that hold a separator, and write empty cells too"
            )
        found = {name: text for name, index in known.items() if (text := cells[index].strip())}
        yield place, _checked(place, found)


def _lines(uri: str, stream: io.BufferedReader, encoding: str) -> Iterator[str]:
    """The lines of a text file, with their ends. UserError for what is no text in this encoding."""
    codec = encoding if encoding != "UTF-8" else "utf-8-sig"
    text = io.TextIOWrapper(stream, codec, errors="surrogateescape", newline="")
    number = 0
    try:
        while line := text.readline(_LONGEST_LINE):
            number += 1
            if not line.isascii():
                line.encode()  # bytes that are no text were decoded to what has no encoding
            if "\0" in line:
                raise UserError(f"listing {uri}, line {number}: it holds a NUL character; save it as CSV (UTF-8)")
            if len(line) == _LONGEST_LINE:
                raise UserError(f"listing {uri}, line {number}: it is longer than a line of a listing can be")
            yield line
    except UnicodeEncodeError as error:
        raise UserError(
            f"listing {uri}, line {number}: character {error.start + 1} is no {encoding}; save it as CSV (UTF-8)"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"listing {uri}: what follows line {number} is no {encoding}; save it as CSV (UTF-8)") from None


def _named_separator(head: list[str]) -> str:
    """The separator that a first line `sep=;` names, as Excel reads it; that line is made empty. Empty without one."""
    found = _NAMED_SEPARATOR.fullmatch(head[0]) if head else None
    if found is None:
        return ""
    head[0] = found["end"]
    return found["separator"]


def _separator(head: Sequence[str]) -> str:
    for separator in _SEPARATORS:
        with suppress(csv.Error):
            header = next(filter(any, csv.reader(head, delimiter=separator, strict=True)), [])
            if "image" in map(_plain, header):
                return separator
    return ","


def _parsed(uri: str, lines: Iterator[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of CSV, each with the number of its first line."""
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = f"it is no CSV ({error}); close quotes, and double those inside a cell"
            if "field larger" in str(error):
                why = f"a cell has more than {_LONGEST_CELL} characters; close its quotes, or give it fewer masks"
            raise UserError(f"listing {uri}, line {number}: {why}") from None


def _parquet_rows(uri: str, columns: Sequence[str]) -> Iterator[Row]:
    data = storage.in_arrow(storage.read_bytes(uri))
    count = 0
    try:
        file = pq.ParquetFile(data)
        known = _known_columns(uri, file.schema_arrow.names, columns)
        fields = {name: file.schema_arrow.field(index) for name, index in known.items()}
        for name, field in fields.items():
            if not _is_text(field.type):
                raise UserError(f"listing {uri}: column {name} holds {field.type}, not text")
        for batch in file.iter_batches(4096, columns=[field.name for field in fields.values()]):
            values_of = [batch.column(field.name).to_pylist() for field in fields.values()]
            for values in zip(*values_of, strict=True):
                count += 1
                place = f"listing {uri}, row {count}"
                cells = {name: _text(value) for name, value in zip(fields, values, strict=True)}
                yield place, _checked(place, {name: text for name, text in cells.items() if text})
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # ValueError: text that is no UTF-8
        reason = " ".join(str(error).split())
        raise UserError(f"listing {uri} cannot be read after row {count} ({reason}); write it anew") from None


def _is_text(kind: pa.DataType) -> bool:
    """Whether values of a type are text, or have one text each: numbers, truth values, times."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return is_string or pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)


def _text(value: object) -> str:
    """A value of Parquet as text; empty for none, and for a number that is not one, which pandas writes for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip()


def _plain(column: str) -> str:
    return column.strip().strip("\ufeff").strip().lower()


def _known_columns(uri: str, header: Sequence[str], columns: Sequence[str]) -> dict[str, int]:
    """The place of each known column. UserError where `image` is missing, or a column is there twice or nearly."""
    known: dict[str, int] = {}
    others: list[str] = []
    for index, column in enumerate(header):
        name = _plain(column)
        if name not in columns:
            others.append(column)
        elif name in known:
            raise UserError(f"listing {uri} has the column {name} twice; rename or delete one")
        else:
            known[name] = index
    if "image" not in known:
        has = f"has the columns {_shown(header)}" if header else "has no header"
        may = f", and may have {', '.join(columns[1:])}" if columns[1:] else ""
        raise UserError(f"listing {uri} {has}; it needs image{may}")
    for column in others if columns == COLUMNS else ():
        if meant := _meant(_plain(column), [name for name in COLUMNS if name not in known]):
            raise UserError(
                f"listing {uri} has the column {_shown([column])}; if it is {meant}, rename it, else give it another"
                f" name (columns that are read: {', '.join(COLUMNS)})"
            )
    if others and columns == COLUMNS:
        no_masks = "" if known.keys() & {"mask", "kind"} else "; without mask, all its images are authentic"
        console.say(f"listing: {uri}: columns that are not read: {_shown(others)}{no_masks}")
    return known


def _meant(column: str, missing: Sequence[str]) -> str | None:
    """The column that an unknown one may be meant for, of those that the listing does not have.

    Part of a name is enough where passing over the column would harm without a word: `mask_path`, `group_id`.
    """
    near = difflib.get_close_matches(column, missing, n=1, cutoff=0.75)
    within = [name for name in ("mask", "group", "split") if name in missing and name in column]
    return next(iter([*near, *within]), None)


def _shown(columns: Sequence[str]) -> str:
    """Names of columns for people, in one short line."""
    names = [name if name and name.isprintable() else repr(name) for name in columns[:12]]
    more = f" and {len(columns) - 12} more" if len(columns) > 12 else ""
    return ", ".join(name if len(name) <= 40 else f"{name[:40]}..." for name in names) + more


def _checked(place: str, cells: dict[str, str]) -> dict[str, str]:
    """The same cells. UserError for a line end outside `mask`, a NUL character, and words for no value."""
    for name, text in cells.items():
        if (
            len(text) <= 5
            and (word := text.lower()) in _NO_VALUE
            and not (name in ("group", "name") and word in _NAMES)
        ):
            raise UserError(f"{place}, column {name}: it says {text}; leave cells without a value empty")
        if not text.isprintable() and re.search(r"\0" if name == "mask" else r"[\0\r\n]", text):
            raise UserError(f"{place}, column {name}: {text[:80]!r} holds a line end or a NUL character")
    return cells


def _with_slashes(uri: str, listed: Iterator[Row]) -> Iterator[Row]:
    r"""The rows with `/` in relative locations where a listing of Windows has `\`.

    On other systems `\` may be part of a name. The first such location decides for the listing: where a file of that
    very name exists, all are taken as they are. Absolute paths of Windows are refused.
    """
    folder, separates = uri.rsplit("/", 1)[0], None
    for place, cells in listed:
        for column in ("image", "mask"):
            if not ("\\" in (text := cells.get(column, "")) or ":" in text):
                continue
            for location in re.split(r"[\r\n]+", text):
                if _WINDOWS.match(location):
                    raise UserError(
                        f"{place}, column {column}: {location[:80]!r} is an absolute path of Windows; write it as this"
                        " machine has it, or relative to the listing"
                    )
                if separates is None and "\\" in location and "://" not in location and not location.startswith("/"):
                    separates = not storage.exists(uris.join(folder, location))
                    if separates:
                        where = place.removeprefix("listing ")
                        console.say(rf"listing: {where}: from here on, \ in relative locations is read as /")
            if separates:
                cells[column] = _slashes(text)
        yield place, cells


def _slashes(text: str) -> str:
    return "\n".join(
        line if "://" in line or line.startswith("/") else line.replace("\\", "/")
        for line in re.split(r"[\r\n]+", text)
    )
