"""Charts of pages as SVG: curves, and intervals. Colours and strokes are those of the style sheet."""

from collections.abc import Mapping, Sequence

from pipelines.dataset import html

WIDTH, HEIGHT = 480, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 44
Point = tuple[float, float | None]
"""Of a curve: x, and y or None where it is not known."""


def curves(
    series: Mapping[str, Sequence[Point]],
    x: str,
    y: str,
    *,
    bounds: tuple[float, float] | None = None,
    span: tuple[float, float] | None = None,
    ticks: Sequence[tuple[float, str]] = (),
    names: Sequence[str] = (),
    diagonal: bool = False,
) -> str:
    """A curve for each series over an axis called `x`; the vertical axis is called `y`. The axes span `span` and
    `bounds`, or the values.

    `ticks` are places on the horizontal axis with their labels; without them there are five numbers. `names` are what
    the tooltips call the points. `diagonal` adds the line from corner to corner. Empty where no point has a value.
    """
    points = [(at, value) for curve in series.values() for at, value in curve if value is not None]
    if not points:
        return ""
    across_all = [at for curve in series.values() for at, _ in curve]
    left, right = span or (min(across_all), max(across_all))
    low, high = bounds or _spanned([value for _, value in points])
    width, height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def place(at: float, value: float) -> tuple[float, float]:
        across = (at - left) / (right - left) if right > left else 0.5
        up = min(max((value - low) / (high - low), 0), 1)
        return _LEFT + width * across, HEIGHT - _BOTTOM - height * up

    parts = []
    for tick in range(5):
        value = low + (high - low) * tick / 4
        _, level = place(left, value)
        parts.append(f'<path class=grid d="M{_LEFT} {level:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 5, level + 4, f"{value:,.3g}", "end"))
    evenly = [left + (right - left) * step / 4 for step in range(5)] if right > left else [left]
    for at, label in ticks or [(at, f"{at:,.4g}") for at in evenly]:
        parts.append(_text(place(at, low)[0], HEIGHT - _BOTTOM + 15, label, "middle"))
    if diagonal:
        parts.append(f'<path class=axis d="M{_LEFT} {HEIGHT - _BOTTOM}L{WIDTH - _RIGHT} {_TOP}"/>')
    for number, (name, curve) in enumerate(series.items()):
        known = [(*place(at, value), at, value, index) for index, (at, value) in enumerate(curve) if value is not None]
        path = "L".join(f"{across:.1f} {level:.1f}" for across, level, *_ in known)
        parts.append(f'<path class="curve s{number % html.COLOURS}" d="M{path}"/>')
        for across, level, at, value, index in known if len(known) <= 60 else ():
            point = names[index] if names else f"{at:,.4g}"
            tooltip = html.escape(f"{name}, {point}: {value:,.4g}")
            parts.append(
                f'<circle class="dot s{number % html.COLOURS}" cx="{across:.1f}" cy="{level:.1f}" r="3">'
                f"<title>{tooltip}</title></circle>"
            )
    parts.append(_text(_LEFT + width / 2, HEIGHT - 8, f"{x}; vertical: {y}", "middle"))
    key = html.legend(list(series)) if len(series) > 1 else ""
    label = html.escape(f"{y} against {x}")
    return f'{key}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{label}">{"".join(parts)}</svg>'


def interval(low: float, value: float, high: float) -> str:
    """A value between 0 and 1 with its interval, as a line with a dot, to stand in a cell of a table."""
    start, at, end = (4 + 112 * min(max(one, 0.0), 1.0) for one in (low, value, high))
    return (
        '<svg class="between s0" viewBox="0 0 120 12" aria-hidden=true><path class=grid d="M4 6H116"/>'
        f'<path class=span d="M{start:.1f} 6H{end:.1f}"/><circle class=dot cx="{at:.1f}" cy="6" r="3.5"/></svg>'
    )


def _spanned(values: Sequence[float]) -> tuple[float, float]:
    """Bounds that hold all values, with a little room."""
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return (0.0 if 0 <= low < 0.3 * high else low - room), high + room


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
