"""Whether a dataset has all its files, and whether they hold what the manifest says.

Presence and sizes come from one listing, whatever the number of shards. The content is read by `mpc inspect --verify`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mpc_model.errors import DamagedError, UserError
from pipelines.dataset import reader, rejects
from pipelines.dataset.counts import Statistics
from pipelines.dataset.manifest import FILE_NAME, Manifest, ShardEntry
from pipelines.dataset.schema import SPLITS, UNLABELLED
from pipelines.runtime import pieces, storage, uris

REPORT = "report.html"
REMEDY = "run the same `mpc build` again, which makes them again"
_NAMED = 3
"""Files that are named; of more, the number is said."""
SMALL = 2**28
"""Bytes of shards that one core reads and counts before Ray has started."""
_COUNTED = ["kind", "height", "width", "forged_pixels", "class_pixels"]
"""Columns whose values are compared with the manifest, as far as the dataset has them."""


def lost(uri: str, manifest: Manifest, splits: Collection[str] = SPLITS) -> dict[str, str]:
    """Files of a dataset that are not there, or have another size than the manifest says, each with what is wrong.

    Names are those below the dataset: `shards/train-00001.parquet`. Of the shards those of `splits` are looked at,
    `rejects.parquet` and `report.html` are looked at where they are all of them.
    """
    root = uris.written(uris.absolute(uri))
    try:
        stamps = storage.list_stamps(uri)
    except UserError:
        if Manifest.exists(uri):
            raise
        stamps = {}  # deleted since
    sizes = {location[len(root) :].lstrip("/"): stamp.size for location, stamp in stamps.items()}
    problems = dict[str, str]()
    for shard in manifest.shards:
        name = f"shards/{shard.name}.parquet"
        if shard.split in splits and sizes.get(name) != shard.bytes:
            problems[name] = f"{sizes[name]} bytes instead of {shard.bytes}" if name in sizes else "lost"
    if set(splits) == set(SPLITS):
        problems |= {name: "lost" for name in (rejects.REJECTS, REPORT) if not sizes.get(name)}
    return problems


def check(uri: str, manifest: Manifest, splits: Collection[str] = SPLITS, content: bool = False) -> None:
    """DamagedError, which names up to three of them, for shards of these splits that are not there or not whole.

    With `content` all of them are read, too, and compared with their SHA-256 and the manifest.
    """
    problems = {name: problem for name, problem in lost(uri, manifest, splits).items() if name.startswith("shards/")}
    if problems:
        raise DamagedError(f"{summary(uri, problems)}; {REMEDY}")
    if content and (problems := _changed(uri, manifest, splits)):
        raise DamagedError(f"the dataset {uri} has damaged files: {_in_words(problems)}; delete them and {REMEDY}")


def _changed(uri: str, manifest: Manifest, splits: Collection[str]) -> dict[str, str]:
    """Shards of these splits whose content is not that of the manifest, each with what is wrong."""
    shards = [shard for shard in manifest.shards if shard.split in splits]
    with ThreadPoolExecutor(4) as pool:
        examined = pool.map(lambda shard: _examine(uri, manifest, shard)[0], shards)
        return {
            f"shards/{shard.name}.parquet": problem for shard, problem in zip(shards, examined, strict=True) if problem
        }


def summary(uri: str, problems: dict[str, str]) -> str:
    """Which files of a dataset have a problem, in words: up to three, and how many there are."""
    return f"the dataset {uri} lacks files or parts of them: {_in_words(problems)}"


def _in_words(problems: dict[str, str]) -> str:
    named = ", ".join(f"{name} ({problem})" for name, problem in list(problems.items())[:_NAMED])
    return f"{named} and {len(problems) - _NAMED} more" if len(problems) > _NAMED else named


def verify(uri: str, manifest: Manifest) -> Generator[tuple[str, str]]:
    """Read a whole dataset: the name of each file, with what is wrong, empty where nothing is. Files come in any order.

    Shards and rejects.parquet are compared with their SHA-256, rows with what the manifest says of them. The last one
    is the manifest itself, whose totals are compared with the rows where all shards are sound. Workers of Ray Data read
    the shards, for a small dataset this process.
    """
    totals, sound = Counter[tuple[str, ...]](), True
    numbers = [{"shard": number} for number in range(len(manifest.shards))]
    sizes = [shard.bytes for shard in manifest.shards]
    shared, here = (uri, manifest), sum(sizes) <= SMALL
    examined = pieces.run("inspect", Examiner, shared, numbers, memory=2 * max(sizes, default=0), here=here)
    with closing(examined):
        for number, data in examined:
            problem, counts = json.loads(data)
            totals.update({tuple(key): count for key, count in counts})
            sound &= not problem
            yield f"shards/{manifest.shards[number].name}.parquet", problem
    location = uris.join(uri, rejects.REJECTS)
    file = storage.read_bytes(location) if storage.exists(location) else b""
    same = hashlib.sha256(file).hexdigest() == manifest.rejects
    yield rejects.REJECTS, "" if same else "other bytes" if file else "lost"
    yield FILE_NAME, _difference(_stated(manifest), totals) if sound else ""


class Examiner:
    """A worker (pieces.py): the number of a shard in the manifest to what is wrong with it, and the counts of its rows
    (see `_stated`) where nothing is, as JSON.

    `load` gives the location of the dataset and its manifest.
    """

    def __init__(self, load: Callable[[], tuple[str, Manifest]]) -> None:
        self.uri, self.manifest = load()

    def __call__(self, row: pieces.Row) -> pieces.Returned:
        """What `_examine` says."""
        return pieces.attempt(row["shard"], lambda: self._examine(self.manifest.shards[row["shard"]]))

    def _examine(self, shard: ShardEntry) -> bytes:
        problem, counts = _examine(self.uri, self.manifest, shard)
        return json.dumps([problem, list(counts.items())]).encode()


def _examine(uri: str, manifest: Manifest, shard: ShardEntry) -> tuple[str, Counter[tuple[str, ...]]]:
    """What is wrong with a shard, and the counts (see `_stated`) of its rows where nothing is."""
    location, nothing = reader.shard_location(uri, shard.name), Counter[tuple[str, ...]]()
    if not storage.exists(location):
        return "lost", nothing
    file = storage.read_bytes(location)
    if len(file) != shard.bytes:
        return f"{len(file)} bytes instead of {shard.bytes}", nothing
    if hashlib.sha256(file).hexdigest() != shard.sha256:
        return "other bytes", nothing
    try:
        return "", _count(file, manifest, shard)
    except (pa.ArrowException, ValueError, OSError) as error:
        return " ".join(str(error).split())[:200], nothing


def _count(file: bytes, manifest: Manifest, shard: ShardEntry) -> Counter[tuple[str, ...]]:
    """The counts of the rows of a shard, read a row group at a time. ValueError for rows that it cannot have."""
    parquet = pq.ParquetFile(pa.BufferReader(file), pre_buffer=False)
    columns = manifest.columns
    reader.check_footer(parquet.metadata, shard, manifest.row_group, columns)
    files = [field.name for field in columns.field("views").type.value_type if field.name != "done"]
    counts = Counter[tuple[str, ...]]()
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group, columns=columns.names, use_threads=False)
        reader.check_rows(table, shard, manifest.views)
        stored = table["views"].combine_chunks().flatten()
        counts["statistics", "views"] += len(stored)
        for name in files:
            counts["statistics", "bytes"] += pc.sum(pc.binary_length(stored.field(name))).as_py() or 0
        for row in table.select([name for name in _COUNTED if name in columns.names]).to_pylist():
            split, forged = shard.split, row["forged_pixels"]
            counts["statistics", "samples", split, shard.source, row["kind"]] += 1
            counts["splits", split, "samples"] += 1
            counts["splits", split, "forged"] += forged > 0
            counts["splits", split, "unlabelled"] += row["kind"] == UNLABELLED
            for number, pixels in enumerate(row.get("class_pixels", ())):
                counts["splits", split, "class_pixels", str(number)] += pixels
            counts["splits", split, "pixels", "forged"] += forged
            counts["splits", split, "pixels", "all"] += row["height"] * row["width"]
    return counts


def _stated(manifest: Manifest) -> Counter[tuple[str, ...]]:
    """What the manifest says of all rows: samples by split, source and kind; views and their bytes; samples and pixels
    of splits."""
    stated = Counter[tuple[str, ...]]()
    statistics = Statistics.from_json(manifest.statistics)
    ignored = statistics.count_by("ignored", "split")
    for key, count in statistics.counts.items():
        if key[0] in ("samples", "views", "bytes"):
            stated["statistics", *key] = count
    for name, split in manifest.splits.items():
        stated["splits", name, "samples"], stated["splits", name, "forged"] = split.samples, split.forged
        stated["splits", name, "unlabelled"] = split.unlabelled
        for number, pixels in enumerate(split.class_pixels):
            stated["splits", name, "class_pixels", str(number)] = pixels
        stated["splits", name, "pixels", "forged"] = split.pixels.forged
        stated["splits", name, "pixels", "all"] = sum(split.by_class) + ignored[(name,)]
    return stated


def _difference(stated: Counter[tuple[str, ...]], found: Counter[tuple[str, ...]]) -> str:
    """The first count that differs, in words; empty where none does."""
    for key in sorted(stated.keys() | found.keys()):
        if stated[key] != found[key]:
            return f"{'.'.join(key)} is {stated[key]}, the rows have {found[key]}"
    return ""
