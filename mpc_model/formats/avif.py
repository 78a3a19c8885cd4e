"""AVIF files (AV1 Image File Format 1.1): their header, and the primary picture alone."""

import struct
from dataclasses import dataclass

from mpc_model.errors import cut_short, damaged, unsupported
from mpc_model.formats.av1 import read_stream
from mpc_model.formats.boxes import UNKNOWN, Item, Items, Numbers, boxes, pack, pack_full, read_items, within
from mpc_model.formats.header import Header

_BRANDS = (b"avif", b"avis")
_FRAMES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz")  # the box that says how many frames a track has
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")
_CONVERT = "convert it to JPEG or PNG"
_LONGEST_SIDE = 2**15  # of libavif
_MOST_FRAMES = 4  # of a picture in layers; others have one
_LARGEST_TILE = 2**24
"""Pixels of a tile that may be larger than its picture: a decoder holds the whole tile."""
# By the quarter turns against the clock and then the mirror (-1: none; 0: top and bottom change places; 1: left and
# right do): the orientation in the words of EXIF.
_ORIENTATIONS = {
    **{(0, -1): 1, (1, -1): 8, (2, -1): 3, (3, -1): 6},
    **{(0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7},
    **{(0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5},
}


@dataclass(frozen=True)
class _Picture:
    """A picture of one tile, or of a grid of equal tiles in rows."""

    height: int
    width: int
    tile: tuple[int, int]
    """Height and width of each tile."""
    streams: list[bytes]
    """The AV1 data of each tile."""
    config: bytes
    """The payload of `av1C`, without the units behind it."""
    colour: bytes
    """The payload of `colr` that says how colours are coded, not a profile; may be empty."""
    grid: bytes
    """The data of the grid; empty where there is one tile alone."""


def matches(data: bytes) -> bool:
    """Whether a file begins like AVIF: with a list of brands in which is one of AVIF."""
    end = min(int.from_bytes(data[:4]), len(data), 512)
    return data[4:8] == b"ftyp" and any(data[at : at + 4] in _BRANDS for at in (8, *range(16, end - 3, 4)))


def header(data: bytes, name: str) -> Header:
    """The header of an AVIF file. `stored` is a file of its own with the primary picture and its alpha, nothing else:
    what is decoded is what was measured. The orientation is that of `irot` and `imir`; EXIF does not turn an AVIF file.

    Raises DataError: unsupported_mode for more than 8 bits, cropped pictures, pictures that are made of others in
    another way than a grid, and sequences without a still picture; unreadable. Raises struct.error where boxes are not
    as they must be.
    """
    top = list(boxes(data, 0, len(data)))
    meta = next((box for box in top if box.kind == b"meta"), None)
    if meta is None and any(box.kind == b"moov" for box in top):
        raise unsupported(name, "an AVIF sequence without a still picture", "save its first frame as PNG")
    if meta is None or meta.end > len(data):
        return Header("avif", 0, 0, complete=False)
    items = read_items(data, meta)
    picture = _picture(data, items, items.primary, name)
    alphas = _alphas(items, items.primary)
    alpha = _picture(data, items, alphas[0], name) if alphas else None
    if alpha and (alpha.height, alpha.width) != (picture.height, picture.width):
        raise damaged(name, "its alpha channel has another size")
    if any(_alphas(items, tile) for tile in items.made_of(items.primary)):
        raise unsupported(name, "a grid whose tiles have alpha channels of their own", _CONVERT)
    tracks = within(data, top, _FRAMES)
    return Header(
        "avif",
        picture.height,
        picture.width,
        _orientation(items.item(items.primary), name),
        several=any(int.from_bytes(data[track.start + 8 : track.start + 12]) > 1 for track in tracks),
        alpha=alpha is not None,
        pillow=True,  # not every OpenCV that is installed reads AVIF
        stored=_alone(picture, alpha),
    )


def _alphas(items: Items, number: int) -> list[int]:
    """The items that hold the transparency of an item."""
    return [one for one in items.auxiliary(number) if items.item(one).property(b"auxC")[4:] in _ALPHA]


def _picture(data: bytes, items: Items, number: int, name: str) -> _Picture:
    """The picture of an item. Raises DataError."""
    item = items.item(number)
    height, width = tile = _size(item, name)
    grid, coded = b"", [item]
    if item.kind == b"grid":
        grid, coded = _data(data, items, item, name), [items.item(one) for one in items.made_of(number)]
        tile = _size(coded[0], name) if coded else tile
        _check_grid(grid, coded, (height, width), tile, name)
    if any(one.kind != b"av01" for one in coded):
        raise unsupported(name, "an AVIF picture that is made of others by a rule that is not read", _CONVERT)
    for kind, _ in (found for one in (item, *coded) for found in one.properties):
        if kind.startswith(UNKNOWN) or kind == b"clap":
            what = "a cropped AVIF" if kind == b"clap" else f"an AVIF with the property {kind[1:].decode('latin-1')!a}"
            raise unsupported(name, what, _CONVERT)
    configs = {one.property(b"av1C")[:4] for one in coded}
    if len(configs) != 1 or len(config := configs.pop()) < 4:
        raise damaged(name, "its tiles differ, or do not say how they are coded")
    if config[2] & 0x40:
        raise unsupported(name, f"samples have {12 if config[2] & 0x20 else 10} bits", "convert it to 8 bits a channel")
    if max(height, width, *tile) > _LONGEST_SIDE:
        raise unsupported(name, f"{width}x{height} pixels, more than {_LONGEST_SIDE} in a row", "shrink it")
    streams = [_data(data, items, one, name) for one in coded]
    if sum(map(len, streams)) > len(data):
        raise damaged(name, "its tiles take more bytes than the file has")
    for size, frames in map(read_stream, streams):
        if size != tile:
            raise damaged(name, "its AV1 data is of another size than its header states")
        if frames > _MOST_FRAMES:
            raise unsupported(name, f"{frames} AV1 frames for one picture", _CONVERT)
    colour = item.property(b"colr", b"nclx") or coded[0].property(b"colr", b"nclx")
    return _Picture(height, width, tile, streams, config, colour[:11], grid)


def _check_grid(grid: bytes, tiles: list[Item], size: tuple[int, int], tile: tuple[int, int], name: str) -> None:
    """Raises DataError where tiles do not make a picture of a size (height, width), or are far larger than it."""
    numbers = Numbers(grid, 0, len(grid))
    version, flags, rows, columns = (numbers.take(1) for _ in range(4))
    width, height = (numbers.take(4 if flags & 1 else 2) for _ in range(2))
    if version or (height, width) != size or len(tiles) != (rows + 1) * (columns + 1):
        raise damaged(name, "its grid contradicts itself")
    if any(_size(one, name) != tile for one in tiles):
        raise damaged(name, "the tiles of its grid differ in size")
    down, across = tile
    if not (rows * down < height <= (rows + 1) * down and columns * across < width <= (columns + 1) * across):
        raise damaged(name, f"tiles of {across}x{down} do not make a picture of {width}x{height} pixels")
    if down * across > max(height * width, _LARGEST_TILE):
        raise damaged(name, f"it states tiles of {across}x{down} pixels")


def _data(data: bytes, items: Items, item: Item, name: str) -> bytes:
    """The data of an item. Raises DataError, truncated where the file ends before it."""
    if item.elsewhere or not item.extents:
        raise unsupported(name, "an AVIF whose data is in another file", _CONVERT)
    start, stop = items.inside if item.inside else (0, len(data))
    pieces = [(start + offset, start + offset + length if length else stop) for offset, length in item.extents]
    if any(end > stop or begin > end for begin, end in pieces):
        raise cut_short(name)
    if sum(end - begin for begin, end in pieces) > len(data):
        raise damaged(name, "a picture takes more bytes than the file has")
    return b"".join(data[begin:end] for begin, end in pieces)


def _size(item: Item, name: str) -> tuple[int, int]:
    """The height and width of an item by its property `ispe`."""
    body = item.property(b"ispe")
    height, width = int.from_bytes(body[8:12]), int.from_bytes(body[4:8])
    if len(body) != 12 or not height or not width:
        raise damaged(name, "it does not state the size of its picture")
    return height, width


def _orientation(item: Item, name: str) -> int:
    """The orientation in the words of EXIF."""
    turns = [(kind, body[0] if body else 0) for kind, body in item.properties if kind in (b"irot", b"imir")]
    if [kind for kind, _ in turns] not in ([], [b"irot"], [b"imir"], [b"irot", b"imir"]):
        raise damaged(name, "it is turned twice, or mirrored before it is turned")
    stated = dict(turns)
    return _ORIENTATIONS[stated.get(b"irot", 0) & 3, stated[b"imir"] & 1 if b"imir" in stated else -1]


def _alone(picture: _Picture, alpha: _Picture | None) -> bytes:
    """An AVIF file with a picture, its alpha, and nothing else."""
    items: list[tuple[bytes, bytes, list[tuple[bytes, bytes]]]] = []  # kind, data, properties
    references = b""
    for one in (picture, alpha) if alpha else (picture,):
        first, channels = len(items) + 1, 1 if one.config[2] & 0x10 else 3
        shared = [(b"pixi", struct.pack(f">I{1 + channels}B", 0, channels, *[8] * channels))]
        if one is alpha:
            shared.append((b"auxC", bytes(4) + _ALPHA[0]))
            references += pack(b"auxl", struct.pack(">3H", first, 1, 1))
        elif one.colour:
            shared.append((b"colr", one.colour))
        coded = [_extent(one.tile), (b"av1C", one.config), *shared]
        if one.grid:
            tiles = range(first + 1, first + 1 + len(one.streams))
            items.append((b"grid", one.grid, [_extent((one.height, one.width)), *shared]))
            references += pack(b"dimg", struct.pack(f">{2 + len(tiles)}H", first, len(tiles), *tiles))
        items += [(b"av01", stream, coded) for stream in one.streams]

    kinds = list(dict.fromkeys(found for _, _, properties in items for found in properties))
    entries, links = [], []
    for number, (kind, _, properties) in enumerate(items, 1):
        entries.append(pack_full(b"infe", struct.pack(">2H", number, 0) + kind + b"\0", 2, flags=int(number > 1)))
        indices = [kinds.index(found) + 1 | (0x80 if found[0] == b"av1C" else 0) for found in properties]
        links.append(struct.pack(f">H{1 + len(indices)}B", number, len(indices), *indices))
    properties_of_items = pack(
        b"iprp",
        pack(b"ipco", b"".join(pack(*found) for found in kinds))
        + pack_full(b"ipma", struct.pack(">I", len(items)) + b"".join(links)),
    )

    def all_but_pixels(begin: int) -> bytes:
        """The boxes before the data, which begins at an offset."""
        places = [struct.pack(">2H", 0x4400, len(items))]
        for number, (_, payload, _) in enumerate(items, 1):
            places.append(struct.pack(">3H2I", number, 0, 1, begin, len(payload)))
            begin += len(payload)
        return pack(b"ftyp", b"avif\0\0\0\0avifmif1miaf") + pack_full(
            b"meta",
            b"".join(
                [
                    pack_full(b"hdlr", b"\0\0\0\0pict" + bytes(13)),
                    pack_full(b"pitm", struct.pack(">H", 1)),
                    pack_full(b"iloc", b"".join(places)),
                    pack_full(b"iinf", struct.pack(">H", len(items)) + b"".join(entries)),
                    *([pack_full(b"iref", references)] if references else []),
                    properties_of_items,
                ]
            ),
        )

    length = sum(len(payload) for _, payload, _ in items)
    before = all_but_pixels(len(all_but_pixels(0)) + 8)
    return b"".join([before, struct.pack(">I", 8 + length), b"mdat", *(payload for _, payload, _ in items)])


def _extent(size: tuple[int, int]) -> tuple[bytes, bytes]:
    """The property that states a (height, width)."""
    return b"ispe", struct.pack(">3I", 0, size[1], size[0])
