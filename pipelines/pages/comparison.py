"""The page of a comparison, `comparison.html`: two models on each set, with intervals, slices, and images."""

from collections.abc import Mapping, Sequence

from pipelines.artifacts.comparison import ComparedImage, ComparedMetric, ComparedSet, ComparisonResult
from pipelines.dataset import html
from pipelines.pages.sections import table

REPORT = "comparison.html"
_HEAD = ("A", "B", "B - A", "95% interval", "images", "shown")


Pictures = Mapping[str, Sequence[bytes]]
"""Image, mask, map of A and map of B (PNG or JPEG) by the id of an image."""


def page(result: ComparisonResult, pictures: Sequence[Pictures] = ()) -> str:
    """The page of a comparison: self-contained HTML. `pictures` has those of each set, of images that have any."""
    of_sets = pictures or [{}] * len(result["sets"])
    only = [
        f"<p>Of {which} alone, not compared: {html.escape(', '.join(names))}</p>"
        for which, names in (("A", result["only_first"]), ("B", result["only_second"]))
        if names
    ]
    body = [
        "<h1>Comparison of two models</h1>",
        f"<p>A: <code>{html.escape(result['first'])}</code><br>B: <code>{html.escape(result['second'])}</code></p>",
        "<p class=dim>Differences are B minus A over the same images, with 95% intervals by a paired bootstrap over"
        " images. A difference is shown where its interval does not hold 0. Of twenty slices without any difference,"
        " one shows one by chance.</p>",
        *(_set(one, some) for one, some in zip(result["sets"], of_sets, strict=True)),
        *only,
    ]
    return html.document("Comparison of two models", "".join(body))


def _set(one: ComparedSet, pictures: Pictures) -> str:
    left_out = f", {one['unmatched']} of one of the two alone left out" if one["unmatched"] else ""
    parts = [
        f"<h2>{html.escape(one['name'])}</h2>",
        f"<p class=first><b>{html.escape(one['verdict'])}</b></p>",
        f"<p class=dim>{one['images']} images{left_out}, split {html.escape(one['split'])},"
        f" {html.escape(one['precision'])}, fingerprint <code>{html.escape(one['fingerprint'])}</code></p>",
        _metrics("metric", {name.replace("_", " "): metric for name, metric in one["metrics"].items()}),
    ]
    if one["slices"]:
        slices = {f"{part['by']}: {part['value']}": part for part in one["slices"]}
        parts += ["<h3>F1 by slice</h3>", _metrics("slice", slices)]
    if one["most_apart"]:
        parts += ["<h3>Images where F1 differs most</h3>", _images(one["most_apart"])]
        parts += [_figures(image, pictures[image["id"]]) for image in one["most_apart"] if image["id"] in pictures]
    return "".join(parts)


def _metrics(what: str, metrics: Mapping[str, ComparedMetric]) -> str:
    rows = [
        [
            name,
            *(f"{value:.4f}" for value in (metric["first"], metric["second"], metric["difference"])),
            f"{metric['low']:.4f} to {metric['high']:.4f}",
            f"{metric['images']:,}",
            "yes" if metric["shown"] else "no",
        ]
        for name, metric in metrics.items()
    ]
    return table((what, *_HEAD), rows)


def _images(images: Sequence[ComparedImage]) -> str:
    rows = [
        [
            one["key"] or one["id"],
            f"{one['first']:.4f}",
            f"{one['second']:.4f}",
            f"{one['second'] - one['first']:+.4f}",
        ]
        for one in images
    ]
    return table(("image", "F1 of A", "F1 of B", "B - A"), rows)


def _figures(image: ComparedImage, pictures: Sequence[bytes]) -> str:
    """The pictures of an image in one line."""
    captions = ("image", "mask", f"map of A, F1 {image['first']:.3f}", f"map of B, F1 {image['second']:.3f}")
    figures = [
        f'<figure><img alt="{caption}" src="{html.embedded(_kind(file), file)}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for caption, file in zip(captions, pictures, strict=True)
    ]
    return f"<p><b>{html.escape(image['key'] or image['id'])}</b></p><div class=shown>{''.join(figures)}</div>"


def _kind(file: bytes) -> str:
    return "png" if file.startswith(b"\x89PNG") else "jpeg"
