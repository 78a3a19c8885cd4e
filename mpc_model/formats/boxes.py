"""The boxes of ISO/IEC 14496-12, of which AVIF files are made, and the items of ISO/IEC 23008-12 in them: pictures,
where their data is, and how they belong together."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_BOXES = 100_000
UNKNOWN = b"?"
"""Before the kind of a property that must be understood, and is not."""
_KNOWN = frozenset({b"ispe", b"av1C", b"irot", b"imir", b"pixi", b"colr", b"pasp", b"auxC", b"clap", b"clli", b"mdcv"})
_LONGEST_LIST = 2**20
"""Bytes of a box that lists items; profiles, which are in such a box, do not count."""


class Box(NamedTuple):
    """A box, and where its payload starts and ends. The end may lie behind that of the file."""

    kind: bytes
    start: int
    end: int


class Numbers:
    """Reads big-endian numbers of a payload one after the other. Raises struct.error behind its end."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self._data, self._at, self._end = data, at, min(end, len(data))

    def take(self, size: int) -> int:
        """The number in the next bytes, of which there may be none."""
        at, self._at = self._at, self._at + size
        if self._at > self._end:
            raise struct.error("a number lies behind the end of its box")
        return int.from_bytes(self._data[at : self._at])

    def left(self) -> int:
        """How many bytes follow."""
        return self._end - self._at

    def version_and_flags(self) -> tuple[int, int]:
        """What full boxes begin with."""
        return self.take(1), self.take(3)


def boxes(data: bytes, start: int, stop: int) -> Iterator[Box]:
    """The boxes between two offsets. Raises struct.error where there are too many, or one has no size that can be."""
    at = start
    for _ in range(MAX_BOXES):
        if at + 8 > stop:
            return
        size, kind, payload = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], at + 8
        if size == 1:
            size, payload = int.from_bytes(data[at + 8 : at + 16]), at + 16
        end = stop if size == 0 else at + size
        if end < payload:
            raise struct.error("a box is smaller than its header")
        yield Box(kind, payload, end)
        at = end
    raise struct.error(f"more than {MAX_BOXES} boxes")


def within(data: bytes, parents: Iterable[Box], path: tuple[bytes, ...]) -> list[Box]:
    """The boxes at a path of kinds, of which the first is that of a parent."""
    found = [box for box in parents if box.kind == path[0] and box.end <= len(data)]
    if len(path) == 1:
        return found
    return [box for parent in found for box in within(data, boxes(data, parent.start, parent.end), path[1:])]


def pack(kind: bytes, payload: bytes) -> bytes:
    """A box as bytes."""
    return struct.pack(">I", 8 + len(payload)) + kind + payload


def pack_full(kind: bytes, payload: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A full box as bytes: one with a version and flags."""
    return pack(kind, struct.pack(">I", version << 24 | flags) + payload)


@dataclass
class Item:
    """What a file says of one item: a coded picture, a grid of them, or something else."""

    kind: bytes = b""
    extents: list[tuple[int, int]] = field(default_factory=list)
    """Offset and length of each part of its data; a length of 0 means the rest."""
    inside: bool = False
    """Whether the offsets count from the beginning of the box `idat`, and not of the file."""
    elsewhere: bool = False
    """Whether the data is in another file, or made of other items."""
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Kind and payload, in their order."""

    def property(self, kind: bytes, begin: bytes = b"") -> bytes:
        """The payload of the first property of a kind that begins so; empty where there is none."""
        return next((body for key, body in self.properties if key == kind and body.startswith(begin)), b"")


@dataclass
class Items:
    """The items of a file by their numbers."""

    primary: int = 0
    by_number: dict[int, Item] = field(default_factory=dict)
    references: list[tuple[bytes, int, list[int]]] = field(default_factory=list)
    """Kind, from which item, to which ones."""
    inside: tuple[int, int] = (0, 0)
    """Where the payload of the box `idat` starts and ends."""

    def item(self, number: int) -> Item:
        """An item; one of which nothing was said is empty."""
        return self.by_number.setdefault(number, Item())

    def made_of(self, number: int) -> list[int]:
        """The items of which an item is made."""
        return [
            target
            for kind, origin, targets in self.references
            if kind == b"dimg" and origin == number
            for target in targets
        ]

    def auxiliary(self, number: int) -> list[int]:
        """The items that add something to an item, its transparency for instance."""
        return [origin for kind, origin, targets in self.references if kind == b"auxl" and number in targets]


def read_items(data: bytes, meta: Box) -> Items:
    """The items that a box `meta` lists. Raises struct.error where that contradicts itself, or is too long."""
    items, properties = Items(), list[tuple[bytes, bytes]]()
    associations: list[tuple[int, int, bool]] = []
    for part in boxes(data, meta.start + 4, meta.end):
        numbers = Numbers(data, part.start, part.end)
        if part.kind == b"pitm":
            version, _ = numbers.version_and_flags()
            items.primary = numbers.take(4 if version else 2)
        elif part.kind == b"iloc":
            _locations(_short(numbers), items)
        elif part.kind == b"iinf":
            _kinds(data, part, items)
        elif part.kind == b"iref":
            _references(data, part, items)
        elif part.kind == b"idat":
            items.inside = part.start, part.end
        elif part.kind == b"iprp":
            for inner in boxes(data, part.start, part.end):
                if inner.kind == b"ipco":
                    properties = [(one.kind, data[one.start : one.end]) for one in boxes(data, inner.start, inner.end)]
                elif inner.kind == b"ipma":
                    associations += _associations(_short(Numbers(data, inner.start, inner.end)))
    for number, index, essential in associations:
        if index > len(properties):
            raise struct.error("a property of an item is missing")
        if index and number in items.by_number:
            kind, body = properties[index - 1]
            unknown = essential and kind not in _KNOWN
            items.item(number).properties.append((UNKNOWN + kind if unknown else kind, body))
    return items


def _short(numbers: Numbers) -> Numbers:
    if numbers.left() > _LONGEST_LIST:
        raise struct.error(f"a list of items takes more than {_LONGEST_LIST} bytes")
    return numbers


def _kinds(data: bytes, box: Box, items: Items) -> None:
    """The box `iinf`: of what kind each item is."""
    numbers = _short(Numbers(data, box.start, box.end))
    version, _ = numbers.version_and_flags()
    for entry in boxes(data, box.start + (8 if version else 6), box.end):
        described = Numbers(data, entry.start, entry.end)
        version, _ = described.version_and_flags()
        if entry.kind == b"infe" and version >= 2:
            item = items.item(described.take(2 if version == 2 else 4))
            described.take(2)
            item.kind = described.take(4).to_bytes(4)


def _references(data: bytes, box: Box, items: Items) -> None:
    """The box `iref`: which items belong to which."""
    numbers = _short(Numbers(data, box.start, box.end))
    size = 4 if numbers.version_and_flags()[0] else 2
    for entry in boxes(data, box.start + 4, box.end):
        ids = Numbers(data, entry.start, entry.end)
        origin = ids.take(size)
        items.references.append((entry.kind, origin, [ids.take(size) for _ in range(ids.take(2))]))


def _locations(numbers: Numbers, items: Items) -> None:
    """The box `iloc`: where the data of each item is."""
    version, _ = numbers.version_and_flags()
    offset_size, length_size = divmod(numbers.take(1), 16)
    base_size, index_size = divmod(numbers.take(1), 16)
    total = 0
    for _ in range(numbers.take(2 if version < 2 else 4)):
        item = items.item(numbers.take(2 if version < 2 else 4))
        method = numbers.take(2) & 15 if version else 0
        item.inside = method == 1
        item.elsewhere = numbers.take(2) != 0 or method > 1
        base, count = numbers.take(base_size), numbers.take(2)
        total += count
        if total > MAX_BOXES:
            raise struct.error(f"data in more than {MAX_BOXES} parts")
        for _ in range(count):
            numbers.take(index_size if version else 0)
            offset = base + numbers.take(offset_size)
            item.extents.append((offset, numbers.take(length_size)))


def _associations(numbers: Numbers) -> Iterator[tuple[int, int, bool]]:
    """(item, index of a property from 1, whether it must be understood) of a box `ipma`."""
    version, flags = numbers.version_and_flags()
    size = 2 if flags & 1 else 1
    essential = 1 << 8 * size - 1
    for _ in range(numbers.take(4)):
        number = numbers.take(4 if version else 2)
        for _ in range(numbers.take(1)):
            value = numbers.take(size)
            yield number, value & essential - 1, bool(value & essential)
