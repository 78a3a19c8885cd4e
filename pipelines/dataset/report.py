"""`report.html` and what `mpc inspect` prints: what is in a dataset, and what to know before training on it.

The page needs no other file and no script, does not say where it lies, and is the same bytes for the same dataset.
"""

import html
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from mpc_model.imaging import codecs, drawing
from pipelines.dataset import counts as statistics
from pipelines.dataset import html as charts
from pipelines.dataset import rejects as dataset_rejects
from pipelines.dataset import shortcuts
from pipelines.dataset.counts import CLASSES, Statistics
from pipelines.dataset.duplicates import NearDuplicates
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.rejects import Reject

PICTURED = 36
"""Samples shown, at most."""
WITH_VIEWS = 4
"""Samples of which every view is shown."""
EXAMPLES = 3
"""Rejected samples named for each reason."""
_SHORT = {"encoding": "stored file", "quality": "JPEG quality of the source", "size": "size", "source": "source"}


def dataset_page(
    manifest: Manifest,
    counted: Statistics,
    rejects: Sequence[Reject],
    samples: Sequence[Mapping[str, Any]],
    near: NearDuplicates,
) -> str:
    """The page of a dataset: `counted` its statistics, `rejects` the rows of rejects.parquet, `samples` rows with views
    to choose pictures from."""
    body = [
        "<h1>Pixel dataset</h1>",
        f"<p class=dim>fingerprint <code>{manifest.fingerprint}</code>, seed {manifest.seed}</p>",
        _tiles(counted, rejects),
        "<h2>Know this first</h2>",
        _first(counted),
        "<h2>Samples</h2>",
        charts.table(*_by_split(counted), numbers_from=2),
        "<p></p>",
        charts.table(*_sources(manifest, counted)),
        f"<div class=pair><div><h2>Forged area</h2>{_areas(counted)}</div>",
        f"<div><h2>Where forged pixels lie</h2>{_places(counted)}</div>",
        f"<div><h2>JPEG quality of the source files</h2>{_qualities(counted)}</div>",
        f"<div><h2>Sizes and files</h2>{_sizes(counted)}</div></div>",
        "<h2>Near-duplicates</h2>",
        *(f"<p>{html.escape(line)}</p>" for line in _near(near)),
        "<h2>Left out</h2>",
        _left_out(rejects),
        *_pictures(samples),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Pixel dataset</title><style>{charts.STYLE}</style>{''.join(body)}</html>\n"
    )


def summary_lines(manifest: Manifest, counted: Statistics) -> list[str]:
    """The same for a terminal, without pictures."""
    areas = _area_counts(counted)
    lines = [
        f"fingerprint {manifest.fingerprint}, seed {manifest.seed}",
        "  ".join(f"{name} {value}" for name, value in _figures(counted)),
        "",
        *charts.columns(*_by_split(counted)),
        "",
        *charts.columns(*_sources(manifest, counted)),
        "",
        "forged share of the image, 0 to 100%",
        *charts.columns(
            ("kind", "5% each".center(statistics.AREA_CLASSES), "images"),
            [(kind, charts.blocks(values), f"{sum(values):,}") for kind, values in areas.items()],
        ),
        "",
        *charts.columns(*_commonest(counted, "quality", "JPEG quality of the source")),
        "",
        *charts.columns(*_commonest(counted, "size", "height x width, rounded")),
        "",
    ]
    found = [*shortcuts.shortcuts(counted), *shortcuts.one_class(counted)]
    return lines + [f"! {sentence}" for sentence in found or ["No shortcut found, and both classes in every split."]]


def _figures(counted: Statistics) -> list[tuple[str, str]]:
    classes = counted.images(4)
    return [
        ("samples", f"{classes.total():,}"),
        ("forged", f"{classes['forged',]:,}"),
        ("authentic", f"{classes['authentic',]:,}"),
        ("views stored", f"{counted.counts['views',]:,}"),
        ("of images and masks", charts.byte_size(counted.counts["bytes",])),
    ]


def _tiles(counted: Statistics, rejects: Sequence[Reject]) -> str:
    figures = [*_figures(counted), ("left out", f"{len(rejects):,}")]
    return f"<div class=tiles>{''.join(f'<div><b>{value}</b>{name}</div>' for name, value in figures)}</div>"


def _first(counted: Statistics) -> str:
    found = [*shortcuts.shortcuts(counted), *shortcuts.one_class(counted)]
    listed = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in found)
    said = f"<ul>{listed}</ul>" if found else "<p>No shortcut found, and both classes in every split.</p>"
    rows = []
    for scope in shortcuts.scopes(counted):
        guesses = (shortcuts.guessing(counted, feature, scope) for feature in _SHORT)
        rows.append((scope, *("too few" if guess is None else f"{guess:.0%}" for guess in guesses)))
    place = shortcuts.one_place(counted)
    where = (
        f"One map for all images, drawn where forged pixels lie: F1 {place[0]:.2f}; everything forged: {place[1]:.2f}."
        if place
        else "Too few forged images to say whether forged pixels lie in one place."
    )
    return (
        f"<div class='first{'' if found else ' sound'}'>{said}</div><p class=dim>What was checked: how often the class"
        " of an unseen image is guessed right from one thing alone (chance is 50%)."
        f" {where}</p>{charts.table(('guessed in', *_SHORT.values()), rows)}"
    )


def _by_split(counted: Statistics) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    kinds = sorted(kind for (kind,) in counted.by("samples", 3))
    cells, split_totals = counted.by("samples", 1, 2, 3), counted.by("samples", 1, 3)
    rows = []
    for split in counted.splits():
        own = [split_totals[split, kind] for kind in kinds]
        rows.append((split, "all", *(f"{count:,}" for count in own), f"{sum(own):,}"))
        for source in sorted({source for (of, source, _) in cells if of == split}):
            own = [cells[split, source, kind] for kind in kinds]
            rows.append(("", source, *(f"{count:,}" for count in own), f"{sum(own):,}"))
    return ("split", "source", *kinds, "samples"), rows


def _sources(manifest: Manifest, counted: Statistics) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    forged = counted.images(4, 2)
    rows = []
    for name, source in manifest.sources.items():
        numbers = (source.listed, source.samples, source.rejected, forged["forged", name], source.repeat)
        rows.append((name, *(f"{number:,}" for number in numbers)))
    return ("source", "listed", "written", "left out", "forged", "times an epoch"), rows


def _area_counts(counted: Statistics) -> dict[str, list[int]]:
    found = counted.by("area", 1, 2)
    kinds = sorted({kind for kind, _ in found})
    return {kind: [found[kind, str(place)] for place in range(statistics.AREA_CLASSES)] for kind in kinds}


def _areas(counted: Statistics) -> str:
    areas = _area_counts(counted)
    if not areas:
        return "<p>No forged images.</p>"
    step = 100 // statistics.AREA_CLASSES
    labels = [f"{step * place}%" for place in range(statistics.AREA_CLASSES)]
    return charts.bars(labels, areas, f"forged share of the image, from ({step}% each)", "images", stacked=True)


def _places(counted: Statistics) -> str:
    forged = counted.images(4)["forged",]
    if not forged:
        return "<p>No forged images.</p>"
    covered = counted.places.sum(axis=0) / (255 * forged)
    picture = drawing.heat((covered / max(covered.max(), 1e-9)).astype(np.float32))
    return (
        f'<img class=heat alt="Where forged pixels lie" src="{charts.embedded("png", codecs.encode_png(picture))}">'
        f"<p class=dim>All masks laid over each other, each stretched to a square. Black: never forged; pale yellow:"
        f" forged in {covered.max():.0%} of the forged images. Mean {covered.mean():.0%}.</p>"
    )


def _shares(counted: Statistics, feature: str) -> dict[str, dict[str, int]]:
    """Images by value of a feature, for each class."""
    found: dict[str, dict[str, int]] = {label: {} for label in CLASSES}
    for (label, value), count in counted.by(feature, 4, 5).items():
        found[label][value] = count
    return found


def _qualities(counted: Statistics, most: int = 20) -> str:
    """Paired bars of each quality, or of fives where there are too many; each class adds up to 100%."""
    found = _shares(counted, "quality")
    values = {value for counts in found.values() for value in counts}
    fives = len(values) > most

    def name(value: str) -> str:
        return f"{int(value) // 5 * 5}" if fives and value.isdigit() else value

    groups: dict[str, Counter[str]] = {label: Counter() for label in CLASSES if found[label]}
    for label, of_group in groups.items():
        for value, count in found[label].items():
            of_group[name(value)] += count
    labels = sorted({name(value) for value in values}, key=lambda value: (not value.isdigit(), value.zfill(3)))
    series = {
        label: [100 * of_group[value] / of_group.total() for value in labels] for label, of_group in groups.items()
    }
    return charts.bars(labels, series, "quality, from (5 each)" if fives else "quality", "share of the class", unit="%")


def _commonest(
    counted: Statistics, feature: str, title: str, most: int = 8
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    found = _shares(counted, feature)
    total = Counter(found["authentic"]) + Counter(found["forged"])
    first = sorted(total, key=lambda value: (-total[value], value))[:most]
    rows = [(value, *(f"{found[label].get(value, 0):,}" for label in CLASSES)) for value in first]
    if len(total) > most:
        rest = [sum(count for value, count in found[label].items() if value not in first) for label in CLASSES]
        rows.append((f"{len(total) - most} others", *(f"{count:,}" for count in rest)))
    return (title, *CLASSES), rows


def _sizes(counted: Statistics) -> str:
    sizes = charts.table(*_commonest(counted, "size", "height x width, rounded"))
    return f"{sizes}<p></p>{charts.table(*_commonest(counted, 'encoding', 'stored file'))}"


def _near(near: NearDuplicates) -> list[str]:
    if not near.alike:
        return [f"None: no two images have difference hashes within {near.bits} of 64 bits."]
    where = f"{near.crossing:,} of them have one in another split" if near.crossing else "none is in another split"
    lines = [
        f"{near.alike:,} images, in {near.groups:,} groups, are near-duplicates (difference hashes within {near.bits}"
        f" of 64 bits); {where}."
    ]
    return lines + [f"{a} and {b}: {distance} bits apart" for a, b, distance in near.examples]


def _left_out(rejects: Sequence[Reject]) -> str:
    if not rejects:
        return "<p>Nothing: every listed sample is in the dataset.</p>"
    by_reason: dict[str, list[Reject]] = defaultdict(list)
    for reject in rejects:
        by_reason[reject["reason"]].append(reject)
    rows = []
    for reason, own in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        examples = "<br>".join(html.escape(reject["message"]) for reject in own[:EXAMPLES])
        meaning = html.escape(dataset_rejects.REASONS.get(reason, ""))
        rows.append(
            f"<tr><td><code>{html.escape(reason)}</code><td class=n>{len(own):,}<td>{meaning}"
            f"<br><span class=dim>{examples}</span></tr>"
        )
    head = "<tr><th>reason<th class=n>samples<th>what it means, and the first of them</tr>"
    return f"<p>All are rows of rejects.parquet.</p><div class=wide><table>{head}{''.join(rows)}</table></div>"


def _pictures(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    chosen = _spread(samples, PICTURED)
    body = []
    for split in dict.fromkeys(row["split"] for row in chosen):
        own = sorted((row for row in chosen if row["split"] == split), key=lambda row: (row["source"], row["kind"]))
        shown = "".join(_figure(row, 0, _kind(row), row["key"]) for row in own)
        body += [f"<h2>Pictures of {html.escape(split)}</h2><div class=shown>{shown}</div>"]
    for row in [row for row in chosen if len(row["views"]) > 1][:WITH_VIEWS]:
        views = "".join(_figure(row, view, _done(row, view)) for view in range(len(row["views"])))
        body.append(f"<h2>Views of <code>{html.escape(row['key'])}</code></h2><div class=shown>{views}</div>")
    return body


def _kind(row: Mapping[str, Any]) -> str:
    return f"{row['kind']}, {row['forged_fraction']:.0%} forged" if row["forged_pixels"] else row["kind"]


def _spread(samples: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """Up to `most` samples: one of each split, source and kind, then a second of each, and so on."""
    turns: Counter[tuple[str, str, str]] = Counter()
    ranked = []
    for place, row in enumerate(samples):
        group = row["split"], row["source"], row["kind"]
        ranked.append((turns[group], place))
        turns[group] += 1
    return [samples[place] for _, place in sorted(sorted(ranked)[:most])]


def _done(row: Mapping[str, Any], view: int) -> str:
    """What was done to a view, in words: the names of its operations with their numbers."""
    steps = []
    for step in json.loads(row["views"][view]["done"]):
        settings = (
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in step.items()
        )
        steps.append(" ".join(setting.removeprefix("op ") for setting in settings))
    return "; ".join(steps) or ("as it is" if view else "canonical")


def _figure(row: Mapping[str, Any], view: int, *caption: str) -> str:
    """A view of a sample with the outline of its mask."""
    stored = row["views"][view]
    image = codecs.decode_image(stored["image"], row["key"])
    mask = codecs.decode_mask(stored["mask"], row["key"])
    scale = min(1.0, 360 / max(image.shape[:2]))
    drawn = cv2.resize(drawing.outlined(image, mask), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return charts.figure(drawn, row["key"], *caption)
