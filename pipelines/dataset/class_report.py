"""What the report says of the classes of index masks: their pixels, the images that hold them, and what is missing."""

from pipelines.dataset.counts import Statistics
from pipelines.dataset.manifest import Manifest

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def table(manifest: Manifest, statistics: Statistics) -> Table:
    """For each class its share of the labelled pixels of each split, and how many images hold it; with scribbles, also
    the share of its pixels that are scribbled. The last row is what nobody labelled, of all pixels."""
    pixels, images, scribbled, ignored = (
        statistics.count_by(name, "split", *["label"] * (name != "ignored"))
        for name in ("classes", "holding", "scribbled", "ignored")
    )
    splits = statistics.splits()
    labelled = {split: sum(count for (of, _), count in pixels.items() if of == split) for split in splits}
    head = ["class"]
    for split in splits:
        head += [split, "images", *["scribbled"] * manifest.scribbles]
    rows = []
    for number, name in enumerate(manifest.classes):
        row = [f"{number} {name}"]
        for split in splits:
            key = split, str(number)
            row += [_share(pixels[key], labelled[split]), f"{images[key]:,}"]
            row += [_share(scribbled[key], pixels[key])] * manifest.scribbles
        rows.append(tuple(row))
    last = ["255 not labelled"]
    for split in splits:
        last += [_share(ignored[split,], ignored[split,] + labelled[split]), "", *[""] * manifest.scribbles]
    return tuple(head), [*rows, tuple(last)]


def scribble_lines(manifest: Manifest, statistics: Statistics) -> list[str]:
    """For each split of a dataset with scribbles, which share of its pixels they label."""
    scribbled = statistics.count_by("scribbled", "split")
    lines = []
    for name in statistics.splits() if manifest.scribbles else ():
        pixels = sum(manifest.splits[name].by_class) + statistics.count_by("ignored", "split")[name,]
        lines.append(f"Scribbles label {_share(scribbled[name,], pixels)} of the pixels of split {name}.")
    return lines


def missing(manifest: Manifest, statistics: Statistics) -> list[str]:
    """A sentence for each split that has no labels, or none of some class."""
    pixels = statistics.count_by("classes", "split", "label")
    sentences = []
    for split in statistics.splits():
        absent = [name for number, name in enumerate(manifest.classes) if not pixels[split, str(number)]]
        if len(absent) == len(manifest.classes):
            sentences.append(
                f"Split {split} has no labels: an adaptation alone can learn from it, and nothing can be measured."
            )
        elif absent:
            sentences.append(
                f"Split {split} has no pixel of {', '.join(absent)}: that can neither be learned nor measured."
            )
    return sentences


def _share(part: int, whole: int) -> str:
    """A percentage: of three digits where it is small, so that a rare class differs from none."""
    share = part / whole if whole else 0
    return f"{share:.1%}" if share >= 0.01 or not part else f"{100 * share:.2g}%"
