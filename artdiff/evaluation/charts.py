"""Charts as SVG, for a page without scripts: bars with intervals, and points over an axis.

Colours come from the page's style sheet (classes `first`, `second`, `line`, `label`), so that they fit light and dark
mode. The page also shows each number of a chart in a sentence or a table.
"""

import html
import math
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from artdiff.evaluation.distances import Interval

WIDTH = 360
"""Width of a chart in SVG units, which a page scales: that of a phone, where text keeps its size."""

VALUES = 60
"""Width to the right of the bars, for values."""

ROW, BAR, LETTERS = 52, 12, 48
"""Height of a line with its name, height of a bar, and the most letters of a name; wide letters count twice."""


class Bar(NamedTuple):
    """Two values to compare, the second with its interval, and both as text."""

    name: str
    first: float
    second: Interval
    written: tuple[str, str]


class Point(NamedTuple):
    """A point with the interval of its y value, and its name."""

    x: float
    y: Interval
    name: str


def bars(lines: Sequence[Bar], *, alt: str, largest: float | None = None) -> str:
    """Draw a pair of bars for each line. The axis goes from 0 to `largest`, or to the largest value."""
    most = largest or max((max(one.first, one.second.high, one.second.value) for one in lines), default=0) or 1
    scale = (WIDTH - VALUES) / most
    parts = []
    for number, one in enumerate(lines):
        top = number * ROW + 20
        parts.append(_label(0, top - 5, one.name))
        for place, (value, words) in enumerate(zip((one.first, one.second.value), one.written, strict=True)):
            kind, y = ("first", "second")[place], top + place * (BAR + 2)
            width = max(1.0, value * scale)
            parts.append(f'<rect class="{kind}" x="0" y="{y}" width="{width:.1f}" height="{BAR}"/>')
            end = width if place == 0 else max(width, one.second.high * scale)
            parts.append(_label(end + 6, y + BAR - 2, words))
        if not math.isnan(one.second.low):
            low, high, middle = one.second.low * scale, one.second.high * scale, top + BAR + 2 + BAR / 2
            parts.append(f'<path class="line" d="M{low:.1f} {middle}H{high:.1f}"/>')
    return _svg(parts, len(lines) * ROW + 6, alt)


def points(series: Sequence[Point], *, x: str, y: str, alt: str) -> str:
    """Draw points over an axis that starts at 0, each with its name as a tooltip. The lowest has another colour."""
    left, bottom, height = 46, 40, 220
    span = (max(one.x for one in series) or 1) * 1.05
    highs = [one.y.value if math.isnan(one.y.high) else one.y.high for one in series]
    most = max(highs) * 1.05 or 1
    best = min(range(len(series)), key=lambda place: series[place].y.value)

    def at(one: Point, value: float) -> tuple[float, float]:
        return left + one.x / span * (WIDTH - left - 10), height - bottom - value / most * (height - bottom - 10)

    parts = [f'<path class="line" d="M{left} 10V{height - bottom}H{WIDTH - 10}"/>']
    for place, one in sorted(enumerate(series), key=lambda item: item[0] == best):  # draw the best last, on top
        across, up = at(one, one.y.value)
        if not math.isnan(one.y.low):
            low, high = at(one, max(0, one.y.low))[1], at(one, one.y.high)[1]
            parts.append(f'<path class="line" d="M{across:.1f} {low:.1f}V{high:.1f}"/>')
        kind = "second" if place == best else "first"
        parts.append(
            f'<circle class="{kind}" cx="{across:.1f}" cy="{up:.1f}" r="5"><title>{escaped(one.name)}</title></circle>'
        )
    for value in sorted({one.x for one in series}):
        across = left + value / span * (WIDTH - left - 10)
        parts.append(_label(across, height - bottom + 18, f"{value:g}", anchor="middle"))
    for value in (0.0, most / 2, most):
        parts.append(_label(left - 8, at(series[0], value)[1] + 4, f"{value:.3g}", anchor="end"))
    parts += [_label((left + WIDTH) / 2, height - 6, x, anchor="middle"), _label(left + 6, 14, y)]
    return _svg(parts, height, alt)


def _svg(parts: Sequence[str], height: float, alt: str) -> str:
    name = html.escape(alt, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


def _label(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    short, room = "", LETTERS
    for letter in text:
        room -= 2 if unicodedata.east_asian_width(letter) in "FW" else 1
        if room < 1:
            short += "…"
            break
        short += letter
    return f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(short)}</text>'


def escaped(value: str) -> str:
    """Escape text for HTML."""
    return html.escape(value, quote=False)
