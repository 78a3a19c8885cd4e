"""`report.html`: what is in a dataset, on one page that needs no other file, to look at rather than to read."""

import base64
import html
from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from mpc_model import images
from pipelines import pictures
from pipelines.shards import ShardReader

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1c2330 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem } code { overflow-wrap: anywhere }
table { border-collapse: collapse } td, th { padding: .25rem 1rem .25rem 0; text-align: left; vertical-align: top }
th { border-bottom: 1px solid #aab } td.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: #2b6cb0; height: .9rem; display: inline-block; vertical-align: middle }
figure { display: inline-block; margin: 0 1rem 1rem 0 } figcaption { font-size: .8rem; color: #556 }
img { image-rendering: pixelated; max-width: 18rem }
"""
_COLUMNS = ("key", "kind", "source", "height", "width", "jpeg_quality", "forged_fraction")


def dataset_page(uri: str, manifest: dict[str, Any], rejects: list[dict[str, str]], pictured: int = 12) -> str:
    """The page of a dataset whose shards are written: counts, forged areas, rejects, and pictures of each split."""
    body = [
        "<h1>Pixel dataset</h1>",
        f"<p><code>{html.escape(uri)}</code><br>fingerprint <code>{manifest['fingerprint']}</code>, "
        f"seed {manifest['seed']}, {manifest['views']} views a sample</p>",
    ]
    kinds: Counter[tuple[str, str]] = Counter()
    areas: list[float] = []
    figures: list[str] = []
    for split in manifest["splits"]:
        if not manifest["splits"][split]["samples"]:
            continue
        reader = ShardReader(uri, manifest, split)
        for group in range(len(reader.sizes)):
            for row in reader.read(group, _COLUMNS):
                kinds[split, row["kind"]] += 1
                if row["forged_fraction"] > 0:
                    areas.append(row["forged_fraction"])
        shown = reader.read(0, (*_COLUMNS, "views"))[:pictured]
        figures += [f"<h2>{html.escape(split)}: the first samples</h2>", *map(_figure, shown)]
    body += ["<h2>Samples</h2>", _samples_table(manifest, kinds), "<h2>Forged area</h2>", _histogram(areas)]
    if rejects:
        reasons = Counter(reject["reason"] for reject in rejects)
        rows = [(html.escape(reason), str(count)) for reason, count in reasons.most_common()]
        body += ["<h2>Rejected (listed in rejects.parquet)</h2>", _table(("reason", "samples"), rows)]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Pixel dataset</title>'
        f"<style>{_STYLE}</style>{''.join(body)}{''.join(figures)}</html>\n"
    )


def _samples_table(manifest: dict[str, Any], kinds: Counter[tuple[str, str]]) -> str:
    names = sorted({kind for _, kind in kinds})
    rows = []
    for split, counts in manifest["splits"].items():
        pixels = counts["pixels"]
        share = pixels["forged"] / max(1, pixels["forged"] + pixels["authentic"])
        rows.append((split, str(counts["samples"]), *(str(kinds[split, name]) for name in names), f"{share:.1%}"))
    return _table(("split", "samples", *names, "forged pixels"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [
        f"<tr><td>{first}</td>{''.join(f'<td class=n>{cell}</td>' for cell in rest)}</tr>" for first, *rest in rows
    ]
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{''.join(lines)}</table>"


def _histogram(areas: list[float]) -> str:
    """Forged samples by the forged share of their pixels, in ten classes."""
    counts = np.histogram(areas, bins=10, range=(0, 1))[0]
    scale = 24 / max(1, counts.max())
    rows = [
        f"<tr><td>{low}&ndash;{low + 10}%</td><td class=n>{count}</td>"
        f'<td><span class=bar style="width:{count * scale:.2f}rem"></span></td></tr>'
        for low, count in zip(range(0, 100, 10), counts, strict=True)
    ]
    return f"<table><tr><th>of the image</th><th>samples</th><th></th></tr>{''.join(rows)}</table>"


def _figure(row: dict[str, Any]) -> str:
    """The canonical view of a sample with the outline of its mask, as an inline picture."""
    view = row["views"][0]
    image = images.decode_image(view["image"], row["key"])
    mask = images.decode_mask(view["mask"], row["key"])
    scale = min(1.0, 288 / max(image.shape[:2]))
    outlined = cv2.resize(pictures.outlined(image, mask), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    encoded = base64.b64encode(images.encode_jpeg(outlined, 85)).decode()
    caption = f"{row['kind']}, {row['forged_fraction']:.0%} forged"
    return (
        f'<figure><img alt="{html.escape(row["key"])}" src="data:image/jpeg;base64,{encoded}">'
        f"<figcaption>{html.escape(caption)}<br>{html.escape(row['key'])}</figcaption></figure>"
    )
