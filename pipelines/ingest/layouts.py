"""How files become samples: one function a layout, from a source's config to the items it lists.

An item is a photograph to forge from, or an image with its mask; it holds locations, never pixels. Which items are
good is decided by the survey, what is made of them by the plan. The layouts of public sets are in public_sets.py.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import ijson

from mpc_model.errors import DataError, UserError
from mpc_model.imaging.codecs import IMAGE_SUFFIXES, mask_rule
from mpc_model.imaging.mask_levels import AUTO
from mpc_model.registry import Registry
from pipelines.config.build import SourceConfig
from pipelines.dataset import listing_file
from pipelines.dataset.schema import AUTHENTIC, FORGED, LABELLED, PHOTO, SPLITS, UNLABELLED
from pipelines.ingest import unused_masks
from pipelines.runtime import console, selection, storage, uris
from pipelines.runtime.storage import Stamp

NO_STAMP = Stamp(0, 0)
LONGEST_KIND = 1000
"""Characters: no statistics of a dataset have a longer one."""


@dataclass(frozen=True)
class Item:
    """One photograph, or image with its mask, as a layout lists it."""

    name: str
    """Unique in its source and independent of where the files are: the path below the source's location."""
    image: str
    kind: str
    """`photo` (the build may forge it), `authentic`, any kind of forgery (`forged` where it is not known), `labelled`
    (the mask holds class numbers) or `unlabelled` (nobody knows)."""
    mask: str | None = None
    """The build rejects forged items without one. Several locations, one a line, are united."""
    mask_rule: str = AUTO
    """How the mask file is read: a rule's name (mpc_model.imaging.codecs.mask_rule), or AUTO."""
    group: str = ""
    """Items of one group (a scene, a video) share a split; left out, the item is its own."""
    split: str | None = None
    """The split that the source itself gives to the item."""
    instances: str | None = None
    """Index map (PNG, 0 = background, 1..n) of the objects of a photo."""
    polygons: str | None = None
    """The same as a JSON list of COCO segmentations."""
    scribble: str | None = None
    """An index map of scribbles (PNG, 255 = not scribbled) of a labelled item."""
    image_stamp: Stamp = NO_STAMP
    mask_stamp: Stamp = NO_STAMP
    instances_stamp: Stamp = NO_STAMP
    scribble_stamp: Stamp = NO_STAMP


Layout = Callable[[SourceConfig], Iterator[Item]]
LAYOUTS: Registry[Layout] = Registry("source layout")


def listed(source: SourceConfig, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, tuple[str, Stamp]]:
    """Files of a source's folder or prefix, sorted: path below it -> (location, stamp).

    Raises UserError, naming the source, when there is no such place or no such file in it.
    """
    folder = _folder(source)
    try:
        images, passed_over = selection.select(folder, suffixes)
    except UserError as error:
        raise UserError(f"source {source.name}: {error}; set its location") from None
    if passed_over:
        console.say(f"build: source {source.name}: {passed_over}")
    if not images:
        raise UserError(f"source {source.name}: no images ({', '.join(suffixes)}) in {folder}")
    start = len(uris.absolute(folder))
    return {uri[start:].lstrip("/"): (uri, stamp) for uri, stamp in images.items()}


@LAYOUTS.add("photos")
def photos(source: SourceConfig) -> Iterator[Item]:
    """Photographs to forge from: a folder, a prefix, or a list of files."""
    for name, (uri, stamp) in _photographs(source).items():
        yield Item(name, uri, PHOTO, image_stamp=stamp)


@LAYOUTS.add("coco")
def coco(source: SourceConfig) -> Iterator[Item]:
    """Photographs to forge from, some with known objects.

    Objects come from index maps, `instances/<stem>.png` next to `images/` (or the folder that `annotations` names), or
    from a COCO instances file (`annotations: instances_train2017.json`; crowd regions are left out).
    """
    files = _photographs(source)
    if source.annotations and source.annotations.endswith(".json"):
        polygons, maps = _polygons(source), {}
    else:
        polygons, maps = {}, _index_maps(source)
    has_images_folder = any(name.startswith("images/") for name in files)
    map_locations = {uri for uri, _ in maps.values()}
    with_objects = 0
    for name, (uri, stamp) in files.items():
        if uri in map_locations or (has_images_folder and not name.startswith("images/")):
            continue
        base = name.rsplit("/", 1)[-1]
        stem = name.removeprefix("images/").rsplit(".", 1)[0]
        instances, instances_stamp = maps.get(stem) or maps.get(base.rsplit(".", 1)[0]) or (None, NO_STAMP)
        outlines = polygons.get(base)
        with_objects += bool(instances or outlines)
        yield Item(
            name,
            uri,
            PHOTO,
            instances=instances,
            polygons=outlines,
            image_stamp=stamp,
            instances_stamp=instances_stamp,
        )
    if not with_objects:
        raise UserError(
            f"source {source.name}: no photograph has an object; put index maps in instances/<stem>.png, or set"
            " annotations to a COCO instances file"
        )


@LAYOUTS.add("pairs")
def pairs(source: SourceConfig) -> Iterator[Item]:
    """Forged images with masks: folders `images/` and `masks/` (same stem), and authentic ones in `authentic/`.

    Any of `images/` and `authentic/` may be absent, not both. Or a listing: a CSV or Parquet file with the columns
    `image`, and where wanted `mask` (none: authentic), `kind`, `split`, `group`, `mask_rule`, `name`; locations in it
    may be relative to its folder.
    """
    if isinstance(source.location, str) and source.location.lower().endswith(listing_file.SUFFIXES):
        yield from _listing(source, source.location)
        return
    try:
        images, masks, authentic = _by_stem(source, ("images", "masks", "authentic")).values()
    except UserError:
        if isinstance(source.location, str) and storage.exists(source.location):
            raise UserError(
                f"source {source.name}: {source.location} is a file; name a folder, or a listing whose name ends in"
                f" {', '.join(listing_file.SUFFIXES)} (save a workbook as CSV UTF-8, unpack what is compressed)"
            ) from None
        raise
    if not images and not authentic:
        raise UserError(f"source {source.name}: {source.location} has neither images/ nor authentic/ with images in it")
    unused_masks.check(source.name, *({stem: file.name for stem, file in of.items()} for of in (images, masks)))
    for stem, (_, uri, stamp) in authentic.items():
        yield Item(f"authentic/{stem}", uri, AUTHENTIC, group=stem, image_stamp=stamp)
    for stem, (_, uri, stamp) in images.items():
        mask = masks.get(stem, _NO_FILE)
        location = mask.location or None
        yield Item(f"images/{stem}", uri, FORGED, location, group=stem, image_stamp=stamp, mask_stamp=mask.stamp)


@LAYOUTS.add("unlabelled")
def unlabelled(source: SourceConfig) -> Iterator[Item]:
    """Images of which nobody knows what they hold: a folder, a prefix, or a list of files."""
    for name, (uri, stamp) in _photographs(source).items():
        yield Item(name, uri, UNLABELLED, image_stamp=stamp)


@LAYOUTS.add("indexed")
def indexed(source: SourceConfig) -> Iterator[Item]:
    """Images with labels of named classes: folders `images/` and `labels/`, and where there are any `scribbles/`, files
    of the same stem. Labels and scribbles are PNG files that hold class numbers, and 255 where nobody says."""
    folders = _by_stem(source, ("images", "labels", "scribbles"))
    images, labels, scribbles = folders.values()
    if not images or not labels:
        raise UserError(f"source {source.name}: {source.location} must have images in images/ and in labels/")
    if source.scribbles and scribbles:
        raise UserError(
            f"source {source.name}: scribbles is drawn, but {source.location} has scribbles/ of its own; leave one out"
        )
    for file in (*labels.values(), *scribbles.values()):
        if not file.location.lower().endswith(".png"):
            raise UserError(f"source {source.name}: {file.location} is no PNG; class numbers need files without loss")
    unused_masks.check(source.name, *({stem: file.name for stem, file in of.items()} for of in (images, labels)))
    if without := [file.name for stem, file in images.items() if scribbles and stem not in scribbles]:
        console.say(
            f"build: source {source.name}: without a scribble, so not scribbled at all: {len(without)} of"
            f" {len(images)} images ({', '.join(without[:3])})"
        )
    for stem, image in images.items():
        label, scribble = labels.get(stem, _NO_FILE), scribbles.get(stem, _NO_FILE)
        yield Item(
            stem,
            image.location,
            LABELLED,
            label.location or None,
            scribble=scribble.location or None,
            image_stamp=image.stamp,
            mask_stamp=label.stamp,
            scribble_stamp=scribble.stamp,
        )


class _File(NamedTuple):
    """A file of a source: its path below the source, its location, and its stamp."""

    name: str
    location: str
    stamp: Stamp


_NO_FILE = _File("", "", NO_STAMP)


def _by_stem(source: SourceConfig, folders: tuple[str, ...]) -> dict[str, dict[str, _File]]:
    """Files of a source by folder, and by their path below it without the suffix. UserError where two share it."""
    files: dict[str, dict[str, _File]] = {folder: {} for folder in folders}
    for name, (location, stamp) in listed(source).items():
        folder, _, rest = name.partition("/")
        if folder in files:
            stem = rest.rsplit(".", 1)[0]
            if stem in files[folder]:
                raise UserError(f"source {source.name}: two files of {folder}/ have the stem {stem!r}; rename one")
            files[folder][stem] = _File(name, location, stamp)
    return files


def _listing(source: SourceConfig, uri: str) -> Iterator[Item]:
    """Items of a listing file. UserError, naming line and column, for what cannot be read."""
    folder = uri.rsplit("/", 1)[0]
    try:
        for place, cells in listing_file.rows(uri):
            try:
                item = _listed_item(folder, cells)
            except UserError as error:
                raise UserError(f"{place}, {error}") from None
            yield item
    except UserError as error:
        raise UserError(f"source {source.name}: {error}") from None


def _listed_item(folder: str, cells: dict[str, str]) -> Item:
    """The item of one row of a listing in this folder. UserError, beginning with the column, where it is none."""
    if "image" not in cells:
        raise UserError(f"column image: the row names no image: {str(cells)[:200]}")
    if cells.get("split") not in (*SPLITS, None):
        raise UserError(f"column split: split {cells['split']!r} is none of {', '.join(SPLITS)}")
    try:
        check_rule(cells.get("mask_rule", AUTO))
    except UserError as error:
        raise UserError(f"column mask_rule: {error}") from None
    if len(cells.get("kind", "")) > LONGEST_KIND:
        raise UserError(f"column kind: it has {len(cells['kind'])} characters; {LONGEST_KIND} are the most")
    image = _located("image", folder, cells["image"])
    masks = [
        _located("mask", folder, line.strip()) for line in re.split(r"[\r\n]+", cells.get("mask", "")) if line.strip()
    ]
    kind = cells.get("kind", FORGED if masks else AUTHENTIC).lower()
    return Item(
        name=cells.get("name", cells["image"]),
        image=image,
        kind=kind,
        mask="\n".join(masks) or None if kind != UNLABELLED else None,
        mask_rule=cells.get("mask_rule", AUTO),
        group=cells.get("group", ""),
        split=cells.get("split"),
        image_stamp=_local_stamp(image),
        mask_stamp=_local_stamp(*masks),
    )


def check_rule(name: str) -> None:
    """Raise UserError, with the names that there are, for a mask rule that is none."""
    if name != AUTO:
        mask_rule(name)


def _located(column: str, folder: str, location: str) -> str:
    try:
        return _resolve(folder, location)
    except UserError as error:
        raise UserError(f"column {column}: {error}") from None


def _local_stamp(*files: str) -> Stamp:
    """Total bytes and last change of the files that are on this machine. Objects in a store are not asked for theirs:
    a request for each would take hours."""
    stamps = [storage.stamp(file) for file in files if not uris.is_remote(file)]
    return Stamp(sum(stamp.size for stamp in stamps), max((stamp.mtime_ns for stamp in stamps), default=0))


def _resolve(folder: str, location: str) -> str:
    """An absolute location from one in a listing file, which may be relative to the folder of the file."""
    return uris.from_folder(folder, location)


def _folder(source: SourceConfig) -> str:
    if not isinstance(source.location, str):
        raise UserError(f"source {source.name}: layout {source.layout} takes one folder or prefix, not a list of files")
    return source.location


def _photographs(source: SourceConfig) -> dict[str, tuple[str, Stamp]]:
    """Images of a folder, a prefix, or a list of files: item name -> (location, stamp)."""
    if isinstance(source.location, str):
        return listed(source)
    missing = [item for item in source.location if not storage.exists(item)]
    if missing:
        raise UserError(f"source {source.name}: {missing[0]} does not exist ({len(missing)} such)")
    files = {item.rsplit("/", 1)[-1]: (item, storage.stamp(item)) for item in sorted(source.location)}
    if len(files) < len(source.location):
        raise UserError(f"source {source.name}: two of the listed files have the same name; give their folder instead")
    return files


def _index_maps(source: SourceConfig) -> dict[str, tuple[str, Stamp]]:
    """Index maps (location, stamp) by their path below their folder, without the suffix."""
    folder = source.annotations or uris.join(_folder(source), "instances")
    try:
        stamps = storage.list_stamps(folder, (".png",))
    except UserError as error:
        raise UserError(f"source {source.name}: {error}; set its annotations") from None
    start = len(uris.absolute(folder)) + 1
    return {uri[start:].rsplit(".", 1)[0]: (uri, stamp) for uri, stamp in stamps.items()}


def _polygons(source: SourceConfig) -> dict[str, str]:
    """Segmentations (JSON) by file name, from a COCO instances file. It is streamed: that of train2017 has 448 MB."""
    uri = str(source.annotations)
    try:
        with storage.open_input(uri) as stream:
            names = {image["id"]: image["file_name"].rsplit("/", 1)[-1] for image in ijson.items(stream, "images.item")}
        objects: dict[str, list[str]] = defaultdict(list)
        with storage.open_input(uri) as stream:
            for annotation in ijson.items(stream, "annotations.item", use_float=True):
                if not annotation.get("iscrowd"):
                    if isinstance(annotation["segmentation"], dict):
                        raise TypeError("an object is given as RLE; convert it to polygons")
                    outline = [[round(x) for x in ring] for ring in annotation["segmentation"]]
                    objects[names[annotation["image_id"]]].append(json.dumps(outline, separators=(",", ":")))
    except UserError as error:
        raise UserError(f"source {source.name}: {error}; set its annotations") from None
    except (ijson.JSONError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"source {source.name}: {uri} is not a COCO instances file that can be read"
            f" ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from None
    return {name: f"[{','.join(outlines)}]" for name, outlines in objects.items()}
