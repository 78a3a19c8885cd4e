"""Layouts of public test and training sets, each given by a few regular expressions for the names of its files.

A set is listed as its archive unpacks, with any folders above it. The names tell which mask belongs to an image, and
which images (an original and its forgeries) must stay in one split. Adding a set is adding one entry to SETS.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from mpc_model.errors import DataError, UserError
from mpc_model.imaging.codecs import IMAGE_SUFFIXES
from mpc_model.imaging.mask_levels import AUTO
from pipelines.config.build import SourceConfig
from pipelines.dataset.schema import AUTHENTIC, FORGED
from pipelines.ingest import unused_masks
from pipelines.ingest.layouts import LAYOUTS, NO_STAMP, Item, listed
from pipelines.runtime import console, storage
from pipelines.runtime.storage import Stamp

Files = Mapping[str, tuple[str, Stamp]]


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How the files of a set are named.

    Patterns must match the end of the path below the location, without the suffix; case is ignored. `id` and `group`
    are templates that the named groups of the patterns fill.
    """

    expects: str
    """The naming in short, for the error when no file matches."""
    images: dict[str, str]
    """Patterns by kind; the first one that matches decides. A kind may be a template of named groups, too."""
    mask: str
    """Files that match this pattern are masks, even if another pattern matches them, too."""
    mask_rule: str = "bright"
    id: str = "{id}"
    """Shared by a forged image and its mask."""
    mask_each_object: bool = False
    """Whether an image may have several masks, which are united; if not, two masks for one image are an error."""
    group: str = ""
    """Shared by images that must stay in one split; an image whose name lacks a named group of it is its own group."""


# CASIA and MISD name photographs by category and number: Au_ani_0001, and ani0001 within the name of a forgery.
_PHOTO = r"(?:(?:[a-z]+_)*(?P<category>[a-z]{3})_?(?P<number>\d+))?[^/]*"

SETS: dict[str, Naming] = {
    # The archive with corrected names ("Modified Tp") and the masks of namtpham/casia1groundtruth, after the lists and
    # readers of several public projects. A splice names two photographs and is in the group of the first. Compared
    # pixel by pixel on a part of the set, that is the background, but for half of the kind NRN: there it is the second,
    # and the build's search for near-duplicates finds the pair.
    "casia1": Naming(
        expects="Au/Au_ani_0001.jpg, Tp/CM/Sp_S_*.jpg, Tp/Sp/Sp_D_*.jpg, masks Sp_*_gt.png",
        images={
            AUTHENTIC: rf"Au_{_PHOTO}",
            "copy_move": rf"(?<!Original Tp/)(?:Modified )?Tp/(?:CM/|Sp/)?(?P<id>Sp_S_{_PHOTO})",
            "splice": rf"(?<!Original Tp/)(?:Modified )?Tp/(?:CM/|Sp/)?(?P<id>Sp_D_{_PHOTO})",
        },
        mask=r"(?P<id>Sp_[^/]*)_gt",
        group="{category}{number}",
    ),
    # After the readme of namtpham/casia2groundtruth and the lists of CAT-Net; the corrected masks of
    # SunnyHaze/CASIA2.0-Corrected-Groundtruth lie in another folder under the same names.
    "casia2": Naming(
        expects="Au/Au_ani_00001.jpg, Tp/Tp_S_*.tif, Tp/Tp_D_*.jpg, masks Tp_*_gt.png",
        images={
            AUTHENTIC: rf"Au_{_PHOTO}",
            "copy_move": rf"Tp/(?P<id>Tp_S_{_PHOTO})",
            "splice": rf"Tp/(?P<id>Tp_D_{_PHOTO})",
        },
        mask=r"(?P<id>Tp_[^/]*)_gt",
        group="{category}{number}",
    ),
    # After the set's own page and the lists of TruFor. Authentic images are tiles (_sub_01 .. _sub_09) of one
    # photograph; spliced ones do not tell theirs. A mask tells two cameras apart, red and green (255 near the seam, 200
    # elsewhere); which of them is the forgery is convention, and most readers take green. *_edgemask_3.jpg, a variant
    # with a blue band, is left aside.
    "columbia": Naming(
        expects="4cam_auth/canong3_02_sub_01.tif, 4cam_splc/*_sub_01.tif, 4cam_splc/edgemask/*_sub_01_edgemask.jpg",
        images={
            AUTHENTIC: r"4cam_auth/(?P<photo>[^/]+)_sub_\d+",
            "splice": r"4cam_splc/(?P<id>[^/]+_sub_\d+)",
        },
        mask=r"edgemask/(?P<id>[^/]+_sub_\d+)_edgemask",
        mask_rule="green",
        group="{photo}",
    ),
    # After the lists of TruFor and two public readers. The masks *copy and *paste mark other regions.
    "coverage": Naming(
        expects="image/1.tif, image/1t.tif, mask/1forged.tif",
        images={AUTHENTIC: r"image/(?P<id>\d+)", "copy_move": r"image/(?P<id>\d+)t"},
        mask=r"mask/(?P<id>\d+)forged",
        group="{id}",
    ),
    # After three public readers, which agree that black is forged. The same archive holds DSI-1, named alike.
    "dso1": Naming(
        expects="DSO-1/normal-01.png, DSO-1/splicing-01.png, DSO-1-Fake-Images-Masks/splicing-01.png",
        images={AUTHENTIC: r"(?:DSO-1|images)/normal-\d+", "splice": r"(?:DSO-1|images)/(?P<id>splicing-\d+)"},
        mask=r"(?:DSO-1-Fake-Images-Masks|masks)/(?P<id>splicing-\d+)",
        mask_rule="dark",
    ),
    # After the lists of TruFor and a public reader: a folder holds one original and all that was made of it. The name
    # of the originals in the folders z1, z2, ... (00010_orig) is not verified against the archive.
    "imd2020": Naming(
        expects="1a1ogs/1a1ogs_orig.jpg, 1a1ogs/c8tf5mq_0.png, 1a1ogs/c8tf5mq_0_mask.png",
        images={
            AUTHENTIC: r"(?P<scene>[^/]+)/[^/]+_orig",
            FORGED: r"(?P<scene>[^/]+)/(?P<id>[^/]+_(?:\d+|fake))",
        },
        mask=r"(?P<scene>[^/]+)/(?P<id>[^/]+)_mask",
        id="{scene}/{id}",
        group="{scene}",
    ),
    # After the set's own page and two public readers. Maps have three levels; the page says that grey, too, was
    # changed ("collateral damage"), so all that is not black counts.
    "korus": Naming(
        expects="Canon_60D/pristine/*.TIF, Canon_60D/tampered-realistic/*.TIF, Canon_60D/ground-truth/*.PNG",
        images={
            AUTHENTIC: r"(?P<camera>[^/]+)/pristine/(?P<id>[^/]+)",
            FORGED: r"(?P<camera>[^/]+)/tampered-realistic/(?P<id>[^/]+)",
        },
        mask=r"(?P<camera>[^/]+)/ground-truth/(?P<id>[^/]+)",
        mask_rule="nonzero",
        id="{camera}/{id}",
        group="{camera}/{id}",
    ),
    # After two public readers of the archive (label_in_wild). It has no authentic images.
    "in_the_wild": Naming(
        expects="images/2251.jpg, masks/2251.png",
        images={"splice": r"images/(?P<id>[^/]+)"},
        mask=r"masks/(?P<id>[^/]+)",
    ),
    # After the lists of TruFor, whose authors made the set. The number is that of the COCO photograph.
    "cocoglide": Naming(
        expects="real/dog_1000.png, fake/glide_inpainting_val2017_1000_up.png, mask/dog_1000_mask.png",
        images={
            AUTHENTIC: r"real/[^/]*_(?P<id>\d+)",
            "inpaint": r"fake/[^/]*_(?P<id>\d+)_up",
        },
        mask=r"mask/[^/]*_(?P<id>\d+)_mask",
        group="{id}",
    ),
    # After the set's own readme: Sp/ names the photographs of an image, and its masks are in a folder of its own, one
    # a pasted object. The names *_gt and the order of the photographs within a name are not verified against the
    # archive.
    "misd": Naming(
        expects="Au/Au_ani_00001.jpg, Sp/Sp_D_*.png, Ground Truth Masks/Sp_D_*_gt.png or .../Sp_D_*/masks/*.png",
        images={AUTHENTIC: rf"Au/Au_{_PHOTO}", "splice": rf"Sp/(?P<id>Sp_(?:D_)?{_PHOTO})"},
        mask=r"Ground.Truth.Masks/(?P<id>Sp_[^/]+?)(?:_gt|/masks/[^/]+)?",
        mask_each_object=True,
        group="{category}{number}",
    ),
}


# Frames and masks taken from the videos by the set's own script (images/<video>/0000.png) or as DeepfakeBench does
# (frames/, masks below the compression). Masks are videos in the archive: their folder of frames is not verified, nor
# that they are bright where forged. FaceShifter has no masks; the actors' videos (DeepFakeDetection) are left out.
FFPP = Naming(
    expects="original_sequences/youtube/c23/frames/000/0000.png, manipulated_sequences/Deepfakes/c23/frames/000_003/"
    "0000.png, manipulated_sequences/Deepfakes/masks/frames/000_003/0000.png",
    images={
        AUTHENTIC: r"original_sequences/youtube/(?:raw|c\d+)/(?:frames|images)/(?P<video>\d{3})/\d+",
        "{method}": r"manipulated_sequences/(?P<method>\w+)/(?:raw|c\d+)/(?:frames|images)/"
        r"(?P<video>\d{3}_\d{3})/(?P<frame>\d+)",
    },
    mask=r"manipulated_sequences/(?P<method>\w+)/(?:(?:raw|c\d+)/)?masks/(?:frames/|images/)?"
    r"(?P<video>\d{3}_\d{3})/(?P<frame>\d+)",
    id="{method}/{video}/{frame}",
    group="{video}",
)

_NIST_TABLE = "reference/manipulation/NC2016-manipulation-ref.csv"
_NIST_KINDS = {
    "IsManipulationTypeRemoval": "remove",
    "IsManipulationTypeSplice": "splice",
    "IsManipulationTypeCopyClone": "copy_move",
}
_NIST_COLUMNS = {"ProbeFileName", "ProbeMaskFileName", "BaseFileName", "IsTarget", *_NIST_KINDS}


def named(naming: Naming, source: SourceConfig) -> Iterator[Item]:
    """Items of a set whose file names say everything."""
    yield from _items(naming, source, listed(source))


for _name, _naming in SETS.items():
    LAYOUTS.add(_name)(partial(named, _naming))


@LAYOUTS.add("ffpp")
def ffpp(source: SourceConfig) -> Iterator[Item]:
    """FaceForensics++: frames of videos, with masks.

    000_003 is video 000 with the face of 003, and there is 003_000, too: the four videos of a pair stay together.
    """
    files = listed(source)
    pairs = {tuple(pair) for name in files for pair in re.findall(r"/(\d{3})_(\d{3})/", name)}
    group_of = {video: "_".join(sorted(pair)) for pair in pairs for video in (*pair, "_".join(pair))}
    for item in _items(FFPP, source, files):
        yield replace(item, group=group_of.get(item.group, item.group))


@LAYOUTS.add("nist16")
def nist16(source: SourceConfig) -> Iterator[Item]:
    """NIST Nimble Challenge 2016, from its reference table; file names say nothing, and black is forged.

    What was made of one photograph (BaseFileName) stays together. Raises UserError without the table, DataError when
    it lacks a column.
    """
    files = listed(source, (*IMAGE_SUFFIXES, ".csv"))
    tables = [name for name in files if name.lower().endswith(_NIST_TABLE.lower())]
    if len(tables) != 1:
        raise UserError(
            f"source {source.name}: {len(tables)} files {_NIST_TABLE} in {source.location}; layout nist16 needs one,"
            " and the folders probe/ and reference/ beside each other"
        )
    uri, _ = files[tables[0]]
    root = tables[0][: -len(_NIST_TABLE)]
    by_lower_case = {name.lower(): name for name in files}
    rows = csv.DictReader(
        io.StringIO(storage.read_bytes(uri).decode("utf-8-sig", "replace")), delimiter="|", restval=""
    )
    if missing := _NIST_COLUMNS - set(rows.fieldnames or ()):
        raise DataError(f"{uri}: the columns {', '.join(sorted(missing))} are missing; unpack the set again")
    for row in rows:
        probe, mask = (root + row[column] for column in ("ProbeFileName", "ProbeMaskFileName"))
        name = by_lower_case.get(probe.lower(), probe)
        # A probe whose file is missing is listed all the same, so that the build records it as rejected.
        image, stamp = files.get(name, (f"{uri[: -len(_NIST_TABLE)]}{row['ProbeFileName']}", NO_STAMP))
        item = Item(name, image, AUTHENTIC, group=row["BaseFileName"].lower(), image_stamp=stamp)
        if row["IsTarget"] == "Y":
            kind = next((kind for column, kind in _NIST_KINDS.items() if row[column] == "Y"), FORGED)
            mask_uri, mask_stamp = files.get(by_lower_case.get(mask.lower(), ""), (None, NO_STAMP))
            item = replace(item, kind=kind, mask=mask_uri, mask_rule=_rule(source, "dark"), mask_stamp=mask_stamp)
        yield item


def _items(naming: Naming, source: SourceConfig, files: Files) -> Iterator[Item]:
    """Items by the names of files. Raises UserError if no name matches, or if an image has several masks."""
    is_mask = _path_pattern(naming.mask)
    kinds = [(kind, _path_pattern(pattern)) for kind, pattern in naming.images.items()]
    masks: dict[str, list[str]] = defaultdict(list)
    for name in files:
        if match := is_mask.fullmatch(name):
            masks[_fill(naming.id, match)].append(name)
    any_image, unknown, used = False, list[str](), set[str]()
    for name, (uri, stamp) in files.items():
        if is_mask.fullmatch(name):
            continue
        kind, match = next(((kind, fit) for kind, pattern in kinds if (fit := pattern.fullmatch(name))), ("", None))
        if match is None:
            unknown.append(name)
            continue
        any_image = True
        item = Item(name, uri, _fill(kind, match), group=_fill(naming.group, match), image_stamp=stamp)
        if kind != AUTHENTIC:
            own_masks = masks.get(_fill(naming.id, match), [])
            used.update(own_masks)
            if len(own_masks) > 1 and not naming.mask_each_object:
                raise UserError(
                    f"source {source.name}: {len(own_masks)} masks for {name}: {', '.join(own_masks[:3])}; join them"
                    " in one file and remove the others"
                )
            mask = "\n".join(files[name][0] for name in own_masks) or None
            stamps = [files[name][1] for name in own_masks]
            stamp = Stamp(sum(mask.size for mask in stamps), max((mask.mtime_ns for mask in stamps), default=0))
            item = replace(item, mask=mask, mask_rule=_rule(source, naming.mask_rule), mask_stamp=stamp)
        yield item
    if any_image:
        unused_masks.say(source.name, [name for names in masks.values() for name in names if name not in used])
    if unknown and any_image:
        console.warn(
            f"build: source {source.name}: {len(unknown)} images have no name that layout {source.layout} expects,"
            f" and are not listed ({', '.join(unknown[:3])})"
        )
    if not any_image:
        raise UserError(
            f"source {source.name}: no file in {source.location} is named as layout {source.layout} expects"
            f" ({naming.expects}); set location to the unpacked set, or use layout pairs"
        )


def _rule(source: SourceConfig, known: str) -> str:
    """The mask rule of a set, unless its source names another one."""
    return known if source.mask_rule == AUTO else source.mask_rule


def _path_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of a Naming for a path: any folders above, any suffix."""
    return re.compile(rf"(?:.*/)?(?:{pattern})\.[^./]+", re.IGNORECASE)


def _fill(template: str, match: re.Match[str]) -> str:
    """A template filled with named groups, in lower case; empty when the name lacks one of them."""
    values = match.groupdict()
    if all(values.get(group) for group in re.findall(r"{(\w+)}", template)):
        return template.format(**values).lower()
    return ""
