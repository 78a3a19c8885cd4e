"""`report.html` and what `mpc inspect` prints: what is in a dataset, and what to know before training on it.

The page needs no script and no other file. It does not name the dataset's location, and the same dataset gives the same
bytes.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pydantic import TypeAdapter

from mpc_model.errors import DataError
from mpc_model.imaging import codecs, drawing
from pipelines.dataset import class_report, html, shortcuts
from pipelines.dataset.counts import AREA_BINS, CLASSES, Statistics
from pipelines.dataset.duplicates import NearDuplicates
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import decode_view
from pipelines.dataset.rejects import REASONS, Reject
from pipelines.dataset.schema import LABELLED, UNLABELLED, Row
from pipelines.runtime import documents

PICTURED = 36
"""Samples shown at most."""
WITH_VIEWS = 4
"""Samples of which every view is shown."""
EXAMPLES = 3
"""Rejected samples named for each reason."""
_OPERATIONS = TypeAdapter(list[dict[str, Any]])
_SHORT = {"encoding": "stored file", "quality": "JPEG quality of the source", "size": "size", "source": "source"}


def dataset_page(
    manifest: Manifest,
    statistics: Statistics,
    rejects: Sequence[Reject],
    samples: Sequence[Row],
    near: NearDuplicates,
) -> str:
    """The page of a dataset as HTML.

    `rejects` are the rows of rejects.parquet, `samples` rows with views from which pictures are chosen.
    """
    body = [
        "<h1>Pixel dataset</h1>",
        f"<p class=dim>fingerprint <code>{manifest.fingerprint}</code>, seed {manifest.seed}</p>",
        _tiles(statistics, rejects),
        "<h2>Know this first</h2>",
        _warnings(manifest, statistics),
        "<h2>Samples</h2>",
        html.table(*_split_table(statistics), numbers_from=2),
        "<p></p>",
        html.table(*_source_table(manifest, statistics)),
        *_classes(manifest, statistics),
        "<div class=pair>",
        *_forged_pixels(manifest, statistics),
        f"<div><h2>JPEG quality of the source files</h2>{_quality_chart(statistics)}</div>",
        f"<div><h2>Sizes and files</h2>{_size_tables(statistics)}</div></div>",
        *_mask_rules(manifest),
        "<h2>Near-duplicates</h2>",
        *(f"<p>{html.escape(line)}</p>" for line in _near_duplicates(near)),
        "<h2>Left out</h2>",
        _rejected(rejects),
        *_pictures(samples, manifest.class_names),
    ]
    return html.document("Pixel dataset", "".join(body))


def summary_lines(manifest: Manifest, statistics: Statistics) -> list[str]:
    """The same as lines of text for a terminal, without pictures."""
    lines = [
        f"fingerprint {manifest.fingerprint}, seed {manifest.seed}",
        "  ".join(f"{name} {value}" for name, value in _totals(statistics)),
        "",
        *html.columns(*_split_table(statistics)),
        "",
        *html.columns(*_source_table(manifest, statistics)),
        "",
        *(html.columns(*class_report.table(manifest, statistics)) if manifest.indexed else _area_lines(statistics)),
        "",
        *html.columns(*_most_common(statistics, "quality", "JPEG quality of the source")),
        "",
        *html.columns(*_most_common(statistics, "size", "height x width, rounded")),
        "",
    ]
    lines += class_report.scribble_lines(manifest, statistics)
    return lines + [f"! {sentence}" for sentence in findings(manifest, statistics) or [_sound(manifest)]]


def _area_lines(statistics: Statistics) -> list[str]:
    rows = [(kind, html.blocks(values), f"{sum(values):,}") for kind, values in _areas_by_kind(statistics).items()]
    return [
        "forged share of the image, 0 to 100%",
        *html.columns(("kind", "5% each".center(AREA_BINS), "images"), rows),
    ]


def findings(manifest: Manifest, statistics: Statistics) -> list[str]:
    """What to know before training on it."""
    if manifest.indexed:
        return class_report.missing(manifest, statistics)
    return [*shortcuts.shortcuts(statistics), *shortcuts.missing_classes(statistics)]


def _sound(manifest: Manifest) -> str:
    return (
        "All classes are in every split." if manifest.indexed else "No shortcut found, and both classes in every split."
    )


def _labels(statistics: Statistics) -> list[str]:
    """What images are: authentic or forged, and, where there are such, labelled by class or unlabelled."""
    classes = statistics.images_by("class")
    others = [label for label in (LABELLED, UNLABELLED) if classes[label,]]
    return others if others and not any(classes[label,] for label in CLASSES) else [*CLASSES, *others]


def _totals(statistics: Statistics) -> list[tuple[str, str]]:
    classes = statistics.images_by("class")
    labels = sorted(_labels(statistics), key=("forged", "authentic", LABELLED, UNLABELLED).index)
    return [
        ("samples", f"{classes.total():,}"),
        *((label, f"{classes[label,]:,}") for label in labels),
        ("views stored", f"{statistics.counts['views',]:,}"),
        ("of images and masks", html.byte_size(statistics.counts["bytes",])),
    ]


def _tiles(statistics: Statistics, rejects: Sequence[Reject]) -> str:
    totals = [*_totals(statistics), ("left out", f"{len(rejects):,}")]
    return f"<div class=tiles>{''.join(f'<div><b>{value}</b>{name}</div>' for name, value in totals)}</div>"


def _warnings(manifest: Manifest, statistics: Statistics) -> str:
    warnings = findings(manifest, statistics)
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in warnings)
    summary = f"<ul>{items}</ul>" if warnings else f"<p>{_sound(manifest)}</p>"
    summary = f"<div class='first{'' if warnings else ' sound'}'>{summary}</div>"
    if manifest.indexed:
        return summary
    rows = []
    for scope in shortcuts.scopes(statistics):
        accuracies = (shortcuts.guess_accuracy(statistics, feature, scope) for feature in _SHORT)
        rows.append((scope, *("too few" if accuracy is None else f"{accuracy:.0%}" for accuracy in accuracies)))
    prior = shortcuts.position_prior(statistics)
    position = (
        f"One map for all images, drawn where forged pixels lie: F1 {prior[0]:.2f}; everything forged: {prior[1]:.2f}."
        if prior
        else "Too few forged images to say whether forged pixels lie in one place."
    )
    return (
        f"{summary}<p class=dim>What was checked:"
        " how often the class of an unseen image is guessed right from one thing alone (chance is 50%)."
        f" {position}</p>{html.table(('guessed in', *_SHORT.values()), rows)}"
    )


def _split_table(statistics: Statistics) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    kinds = sorted(kind for (kind,) in statistics.count_by("samples", "kind"))
    cells = statistics.count_by("samples", "split", "source", "kind")
    split_totals = statistics.count_by("samples", "split", "kind")
    rows = []
    for split in statistics.splits():
        own = [split_totals[split, kind] for kind in kinds]
        rows.append((split, "all", *(f"{count:,}" for count in own), f"{sum(own):,}"))
        for source in sorted({source for (its_split, source, _) in cells if its_split == split}):
            own = [cells[split, source, kind] for kind in kinds]
            rows.append(("", source, *(f"{count:,}" for count in own), f"{sum(own):,}"))
    return ("split", "source", *kinds, "samples"), rows


def _source_table(manifest: Manifest, statistics: Statistics) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    of_source, present = statistics.images_by("class", "source"), _labels(statistics)
    labels = [label for label in ("forged", UNLABELLED) if label in present]
    rows = []
    for name, source in manifest.sources.items():
        counts = (of_source[label, name] for label in labels)
        numbers = (source.listed, source.samples, source.rejected, *counts, source.repeat)
        rows.append((name, *(f"{number:,}" for number in numbers)))
    return ("source", "listed", "written", "left out", *labels, "times an epoch"), rows


def _classes(manifest: Manifest, statistics: Statistics) -> list[str]:
    """The table of the classes of index masks, with the colours of the pictures below, and what scribbles label."""
    lines = [f"<p>{html.escape(line)}</p>" for line in class_report.scribble_lines(manifest, statistics)]
    if not manifest.indexed:
        return lines
    names = [f"{number} {name}" for number, name in enumerate(manifest.classes)]
    colours = ["#" + bytes(colour).hex() for colour in drawing.class_colours(manifest.classes)]
    legend = html.legend(names, colours)
    return ["<h2>Classes</h2>", html.table(*class_report.table(manifest, statistics)), *lines, legend]


def _forged_pixels(manifest: Manifest, statistics: Statistics) -> list[str]:
    if manifest.indexed:
        return []
    return [
        f"<div><h2>Forged area</h2>{_area_chart(statistics)}</div>",
        f"<div><h2>Where forged pixels lie</h2>{_positions(statistics)}</div>",
    ]


def _areas_by_kind(statistics: Statistics) -> dict[str, list[int]]:
    counts = statistics.count_by("area", "kind", "bin")
    kinds = sorted({kind for kind, _ in counts})
    return {kind: [counts[kind, str(number)] for number in range(AREA_BINS)] for kind in kinds}


def _area_chart(statistics: Statistics) -> str:
    areas = _areas_by_kind(statistics)
    if not areas:
        return "<p>No forged images.</p>"
    step = 100 // AREA_BINS
    labels = [f"{step * number}%" for number in range(AREA_BINS)]
    return html.bars(labels, areas, f"forged share of the image, from ({step}% each)", "images", stacked=True)


def _positions(statistics: Statistics) -> str:
    forged = statistics.images_by("class")["forged",]
    if not forged:
        return "<p>No forged images.</p>"
    covered = statistics.mask_sums.sum(axis=0) / (255 * forged)
    picture = drawing.heat((covered / max(covered.max(), 1e-9)).astype(np.float32))
    return (
        f'<img class=heat alt="Where forged pixels lie" src="{html.embedded("png", codecs.encode_png(picture))}">'
        f"<p class=dim>All masks laid over each other, each stretched to a square. Black: never forged; pale yellow:"
        f" forged in {covered.max():.0%} of the forged images. Mean {covered.mean():.0%}.</p>"
    )


def _values_by_class(statistics: Statistics, feature: str) -> dict[str, dict[str, int]]:
    """Images by value of a feature, for each class."""
    counts: dict[str, dict[str, int]] = {label: {} for label in _labels(statistics)}
    for (label, value), count in statistics.count_by(feature, "class", "value").items():
        counts[label][value] = count
    return counts


def _quality_chart(statistics: Statistics, limit: int = 20) -> str:
    """A bar for each class and quality, or for each five qualities where there are many; a class adds up to 100%."""
    counts = _values_by_class(statistics, "quality")
    values = {value for of_class in counts.values() for value in of_class}
    fives = len(values) > limit

    def name(value: str) -> str:
        return f"{int(value) // 5 * 5}" if fives and value.isdigit() else value

    groups: dict[str, Counter[str]] = {label: Counter() for label in counts if counts[label]}
    for label, group in groups.items():
        for value, count in counts[label].items():
            group[name(value)] += count
    labels = sorted({name(value) for value in values}, key=lambda value: (not value.isdigit(), value.zfill(3)))
    series = {label: [100 * group[value] / group.total() for value in labels] for label, group in groups.items()}
    return html.bars(labels, series, "quality, from (5 each)" if fives else "quality", "share of the class", unit="%")


def _most_common(
    statistics: Statistics, feature: str, title: str, limit: int = 8
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    counts = _values_by_class(statistics, feature)
    total = sum(map(Counter, counts.values()), Counter[str]())
    first = sorted(total, key=lambda value: (-total[value], value))[:limit]
    rows = [(value, *(f"{of_label.get(value, 0):,}" for of_label in counts.values())) for value in first]
    if len(total) > limit:
        rest = [sum(n for value, n in of_label.items() if value not in first) for of_label in counts.values()]
        rows.append((f"{len(total) - limit} others", *(f"{count:,}" for count in rest)))
    return (title, *counts), rows


def _size_tables(statistics: Statistics) -> str:
    sizes = html.table(*_most_common(statistics, "size", "height x width, rounded"))
    return f"{sizes}<p></p>{html.table(*_most_common(statistics, 'encoding', 'stored file'))}"


def _mask_rules(manifest: Manifest) -> list[str]:
    if not manifest.masks:
        return []
    return ["<h2>How masks were read</h2>", *(f"<p>{html.escape(line)}</p>" for line in mask_lines(manifest))]


def mask_lines(manifest: Manifest) -> list[str]:
    """By which rule the masks of each source were read, and on what evidence."""
    return [f"{source}: {reading.sentence()}" for source, readings in manifest.masks.items() for reading in readings]


def _near_duplicates(near: NearDuplicates) -> list[str]:
    if not near.alike:
        return [f"None: no two images have difference hashes within {near.bits} of 64 bits."]
    where = f"{near.crossing:,} of them have one in another split" if near.crossing else "none is in another split"
    lines = [
        f"{near.alike:,} images, in {near.groups:,} groups, are near-duplicates (difference hashes within {near.bits}"
        f" of 64 bits); {where}."
    ]
    return lines + [f"{a} and {b}: {distance} bits apart" for a, b, distance in near.examples]


def _rejected(rejects: Sequence[Reject]) -> str:
    if not rejects:
        return "<p>Nothing: every listed sample is in the dataset.</p>"
    by_reason: dict[str, list[Reject]] = defaultdict(list)
    for reject in rejects:
        by_reason[reject["reason"]].append(reject)
    rows = []
    for reason, own in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        examples = "<br>".join(html.escape(reject["message"]) for reject in own[:EXAMPLES])
        meaning = html.escape(REASONS.get(reason, ""))
        rows.append(
            f"<tr><td><code>{html.escape(reason)}</code><td class=n>{len(own):,}<td>{meaning}"
            f"<br><span class=dim>{examples}</span></tr>"
        )
    head = "<tr><th>reason<th class=n>samples<th>what it means, and the first of them</tr>"
    return f"<p>All are rows of rejects.parquet.</p><div class=wide><table>{head}{''.join(rows)}</table></div>"


def _pictures(samples: Sequence[Row], classes: Sequence[str]) -> list[str]:
    chosen = _choose(samples, PICTURED)
    body = []
    for split in dict.fromkeys(row["split"] for row in chosen):
        own = sorted((row for row in chosen if row["split"] == split), key=lambda row: (row["source"], row["kind"]))
        shown = "".join(_picture(row, 0, classes, _kind_caption(row), row["key"]) for row in own)
        body += [f"<h2>Pictures of {html.escape(split)}</h2><div class=shown>{shown}</div>"]
    for row in [row for row in chosen if len(row["views"]) > 1][:WITH_VIEWS]:
        views = "".join(_picture(row, view, classes, _operations(row, view)) for view in range(len(row["views"])))
        body.append(f"<h2>Views of <code>{html.escape(row['key'])}</code></h2><div class=shown>{views}</div>")
    return body


def _kind_caption(row: Row) -> str:
    return f"{row['kind']}, {row['forged_fraction']:.0%} forged" if row["forged_pixels"] else row["kind"]


def _choose(samples: Sequence[Row], limit: int) -> list[Row]:
    """Up to `limit` samples: one of each split, source and kind, then a second of each, and so on."""
    seen: Counter[tuple[str, str, str]] = Counter()
    ranked = []
    for index, row in enumerate(samples):
        group = row["split"], row["source"], row["kind"]
        ranked.append((seen[group], index))
        seen[group] += 1
    return [samples[index] for _, index in sorted(sorted(ranked)[:limit])]


def _operations(row: Row, view: int) -> str:
    """The operations that made a view, with their parameters, as text."""
    steps = []
    try:
        done = documents.parse(row["views"][view]["done"].encode(), _OPERATIONS)
    except ValueError as error:
        raise DataError(f"view {view} of {row['key']} is damaged: done: {error}") from None
    for step in done:
        settings = (
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in step.items()
        )
        steps.append(" ".join(setting.removeprefix("op ") for setting in settings))
    return "; ".join(steps) or ("as it is" if view else "canonical")


def _picture(row: Row, view: int, classes: Sequence[str], *caption: str) -> str:
    """A view of a sample with the outline of its mask, or the colours of its classes, and with its scribble."""
    files, indexed = row["views"][view], "class_pixels" in row
    image, mask = decode_view(files, row["key"], indexed)
    if row["kind"] == UNLABELLED:
        drawn = image
    else:
        drawn = drawing.class_overlay(image, mask, classes) if indexed else drawing.outlined(image, mask)
    if "scribble" in files:
        drawn = drawing.with_scribble(drawn, codecs.decode_labels(files["scribble"], row["key"]), classes)
    scale = min(1.0, 360 / max(image.shape[:2]))
    drawn = cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return html.figure(drawn, row["key"], *caption)
