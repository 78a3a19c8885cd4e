"""Pages, and plots, tables and pictures as HTML, and tables as text for a terminal.

They need no other file, and the same values give the same text. Labels and captions are escaped here. The look of all
pages is page.css.
"""

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from importlib import resources

from mpc_model.imaging import codecs
from pipelines.runtime.uris import printable

COLOURS = 6
"""Series of one chart that differ in colour: the classes s0 to s5 of the style sheet."""
WIDTH, HEIGHT = 480, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 26, 44
_LABELS = 12
"""Labels that fit below the horizontal axis."""


def document(title: str, body: str, style: str = "", script: str = "", images: str = "") -> str:
    """A page of its own: what is in `body`, in the look of all pages, with more `style` and one `script` if need be.

    Its policy lets a browser load nothing from elsewhere, and run no other script than this one. `images` are sources
    of images besides those in the page: 'self' for files beside it.
    """
    allowed = f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'; " * bool(
        script
    )
    policy = f"default-src 'none'; {allowed}img-src {f'data: {images}'.strip()}; style-src 'unsafe-inline'"
    look = resources.files("pipelines.dataset").joinpath("page.css").read_text()
    run = f"<script>{script}</script>" * bool(script)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{look}{style}</style>{body}{run}</html>\n"
    )


def escape(text: str) -> str:
    """Text for a page: no markup, and no characters that do not print or that turn the line around."""
    return html.escape(printable(text))


def bars(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    x: str,
    y: str,
    stacked: bool = False,
    unit: str = "",
) -> str:
    """A bar chart: one group of bars for each label, one colour for each series, axes called `x` and `y`.

    Each series has a value for every label. `stacked` puts the bars of a group on top of each other. `unit` follows the
    numbers of the vertical axis.
    """
    totals = [sum(column) if stacked else max(column) for column in zip(*series.values(), strict=True)]
    top = _rounded_up(max(totals, default=0))
    plot_width, plot_height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    step = plot_width / max(1, len(labels))
    parts = []
    for tick in range(5):
        level = HEIGHT - _BOTTOM - plot_height * tick / 4
        parts.append(f'<path class=grid d="M{_LEFT} {level:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 5, level + 4, f"{top * tick / 4:,.4g}{unit}", "end"))
    bar_width = 0.8 * step / (1 if stacked else len(series))
    for index, label in enumerate(labels):
        base = HEIGHT - _BOTTOM + 0.0
        for number, (name, values) in enumerate(series.items()):
            tooltip = f"{label}, {name}: {values[index]:,.4g}{unit}"
            bar_height = plot_height * values[index] / top
            left = _LEFT + index * step + 0.1 * step + (0 if stacked else number * bar_width)
            parts.append(
                f'<rect class="bar s{number % COLOURS}" x="{left:.1f}" y="{base - bar_height:.1f}"'
                f' width="{bar_width:.1f}" height="{bar_height:.1f}"><title>{escape(tooltip)}</title></rect>'
            )
            base -= bar_height if stacked else 0
        if index % -(-len(labels) // _LABELS) == 0:
            parts.append(_text(_LEFT + (index + 0.5) * step, HEIGHT - _BOTTOM + 14, label, "middle"))
    parts.append(_text(_LEFT + plot_width / 2, HEIGHT - 6, x, "middle"))
    parts.append(_text(2, 12, y, "start"))
    key = legend(list(series)) if len(series) > 1 else ""
    return f"{key}<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>{''.join(parts)}</svg>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 1) -> str:
    """An HTML table; columns from `numbers_from` on are aligned right."""
    lines = [
        "".join(
            f"<td{' class=n' if column >= numbers_from else ''}>{escape(cell)}</td>" for column, cell in enumerate(row)
        )
        for row in rows
    ]
    names = "".join(
        f"<th{' class=n' if column >= numbers_from else ''}>{escape(name)}</th>" for column, name in enumerate(head)
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class=wide><table><tr>{names}</tr>{body}</table></div>"


def figure(image: codecs.Image, alt: str, *caption: str) -> str:
    """A picture, uint8 RGB (H, W, 3), as an inline JPEG with lines of text below it."""
    lines = "<br>".join(map(escape, caption))
    source = embedded("jpeg", codecs.encode_jpeg(image, 80))
    return f'<figure><img alt="{escape(alt)}" src="{source}"><figcaption>{lines}</figcaption></figure>'


def preformatted(title: str, text: bytes | None) -> str:
    """A text file under a title, folded; empty where there is none. Its lines stay lines."""
    if text is None:
        return ""
    lines = "\n".join(escape(line) for line in text.decode(errors="replace").splitlines())
    return f"<h2>{escape(title)}</h2><details><summary>show</summary><pre>{lines}</pre></details>"


def embedded(kind: str, file: bytes) -> str:
    """An image file as the URL of an inline picture; `kind` is png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


def byte_size(count: int) -> str:
    """A number of bytes in the largest unit that leaves at least 1 of it."""
    power = min(max(0, count.bit_length() - 1) // 10, 4)
    size = count / 1024**power
    return f"{size:{',.0f' if size >= 100 else '.3g'}} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def blocks(values: Sequence[float]) -> str:
    """A histogram as one line of text: a block for each value, its height in eighths of the largest value."""
    largest = max(values, default=0) or 1
    return "".join(" ▁▂▃▄▅▆▇█"[-int(-8 * value // largest)] for value in values)


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text: the first column aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in (head, *rows)
    ]


def _rounded_up(value: float) -> float:
    """The smallest of 1, 2, 4, 10, 20, 40... that is at least `value`: a quarter of it is a short number."""
    top = 1.0
    while top < value:
        top *= 2.5 if str(top).startswith("4") else 2
    return top


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def legend(names: Sequence[str], colours: Sequence[str] = ()) -> str:
    """Names, each with its colour: `colours` (#rrggbb), or those of the series of a chart."""
    marks = [f'style="background:{colour}"' for colour in colours] or [
        f"class=s{number % COLOURS}" for number in range(len(names))
    ]
    keys = (f"<span><i {mark}></i>{escape(name)}</span>" for name, mark in zip(names, marks, strict=True))
    return f"<div class=legend>{''.join(keys)}</div>"
