"""Small charts as inline SVG: text of our own making, every label escaped.

Colours come from the page's style sheet by class name, so that a chart follows the light and
the dark scheme. Lengths are the viewBox's units; the page scales the whole.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 520, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 14, 46
_MOST_TICKS = 6
_SHORTEST = 1e-12
"""A range that is shorter, beside its place, has no ticks that differ."""


@dataclass(frozen=True)
class Axis:
    """One direction of a plot: a name, a range of values, and where it lies in the picture."""

    name: str
    low: float
    high: float
    start: float
    stop: float
    has_ticks: bool = True
    is_log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value, rounded: bytes must not depend on the last bit."""
        low, high, value = (self._scaled(number) for number in (self.low, self.high, value))
        share = (value - low) / (high - low)
        return round(self.start + share * (self.stop - self.start), 1)

    def ticks(self) -> list[float]:
        """Return round values within the range; on a linear axis 1, 2 or 5 times a power of ten apart."""
        if not self.has_ticks:
            return []
        return self._log_ticks() if self.is_log else self._linear_ticks()

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.is_log else value

    def _linear_ticks(self) -> list[float]:
        raw = (self.high - self.low) / _MOST_TICKS
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]

    def _log_ticks(self) -> list[float]:
        """Return powers of ten; where the range holds few of them, also their double and fivefold."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        factors = (1,) if last - first > 3 else (1, 2, 5)
        ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        return [tick for tick in ticks if self.low <= tick <= self.high]


def x_axis(name: str, low: float, high: float) -> Axis:
    """Return a horizontal axis; a range of no length is widened."""
    return Axis(name, low, _above(low, high), _LEFT, WIDTH - _RIGHT)


def y_axis(name: str, low: float, high: float, height: float = HEIGHT, has_ticks: bool = True) -> Axis:
    """Return a vertical axis, low values below."""
    return Axis(name, low, _above(low, high), height - _BOTTOM, _TOP, has_ticks)


def log_axis(name: str, low: float, high: float) -> Axis:
    """Return a vertical axis that counts in powers of ten; both ends are above 0."""
    return Axis(name, low, max(high, 10 * low), HEIGHT - _BOTTOM, _TOP, is_log=True)


def chart(label: str, x: Axis, y: Axis, content: Sequence[Markup], height: float = HEIGHT) -> Markup:
    """Return a plot with its axes.

    Args:
        label: what the plot shows, for those who cannot see it.
        x: horizontal axis.
        y: vertical axis.
        content: marks, drawn in order.
        height: of the viewBox.
    """
    body = Markup("").join([_grid(x, y), *content])
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, round(height), label, body
    )


def line(points: Sequence[tuple[float, float]], x: Axis, y: Axis, kind: str) -> Markup:
    """Return a line through points (x value, y value)."""
    places = " ".join(f"{x.at(a):g},{y.at(b):g}" for a, b in points)
    return Markup('<polyline class="line {}" points="{}"/>').format(kind, places)


def dot(a: float, b: float, x: Axis, y: Axis, kind: str, title: str = "", radius: float = 3) -> Markup:
    """Return a dot at a value; its title shows when the pointer rests on it."""
    inside = Markup("<title>{}</title>").format(title) if title else Markup("")
    return Markup('<circle class="dot {}" cx="{}" cy="{}" r="{}">{}</circle>').format(
        kind, f"{x.at(a):g}", f"{y.at(b):g}", f"{radius:g}", inside
    )


def text(place_x: float, place_y: float, words: str, kind: str = "", anchor: str = "start") -> Markup:
    """Return a text at a place of the viewBox."""
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, f"{place_x:g}", f"{place_y:g}", anchor, words
    )


def limit(value: float, axis: Axis, other: Axis, name: str) -> Markup:
    """Return a dashed line across the plot at a value of `axis`, with its name at the end."""
    place = axis.at(value)
    if axis.start < axis.stop:  # horizontal axis: the line stands upright
        rule = _rule("limit", place, other.stop, place, other.start)
        return rule + text(place + 4, other.stop + 11, name, "note")
    rule = _rule("limit", other.start, place, other.stop, place)
    return rule + text(other.stop - 2, place - 4, name, "note", "end")


def number(value: float) -> str:
    """Return a tick's label without rounding noise."""
    return f"{value:.6g}"


def _rule(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}"/>').format(kind, x1, y1, x2, y2)


def _grid(x: Axis, y: Axis) -> Markup:
    parts = []
    for value in y.ticks():
        place = y.at(value)
        parts += [
            _rule("grid", x.start, place, x.stop, place),
            text(x.start - 6, place + 4, number(value), "tick", "end"),
        ]
    for value in x.ticks():
        place = x.at(value)
        parts += [_rule("grid", place, y.start, place, y.start + 4)]
        parts += [text(place, y.start + 18, number(value), "tick", "middle")]
    turned = Markup('<text class="axis" transform="translate(13 {:g}) rotate(-90)" text-anchor="middle">{}</text>')
    names = [text((x.start + x.stop) / 2, y.start + 38, x.name, "axis", "middle")]
    return Markup("").join([*parts, *names, turned.format((y.start + y.stop) / 2, y.name)])


def _above(low: float, high: float) -> float:
    is_range = high - low > _SHORTEST * max(1.0, abs(low))
    return high if is_range else low + max(1.0, abs(low))
