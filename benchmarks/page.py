"""What was measured as text: JSON to keep, Markdown tables, an SVG with the curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from benchmarks.timing import Curve, Figure, Section
from realera.settings.errors import ArtifactError
from realera.store.artifacts import read_json, write_json

TITLES = {
    "solve": "Solve",
    "mining": "Mining",
    "sums": "Mining in closed form, and thousands of concepts",
    "lora": "A training step of the LoRA",
    "generation": "Drawing",
    "graph": "The graph",
    "growth": "Growth",
    "classes": "The ten classes",
}

PANEL_WIDTH, PANEL_HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380, 400, 62, 14, 40, 150
COLOURS = ("#0b62a3", "#c2410c", "#15803d", "#7c3aed", "#64748b")
PANELS = (
    ("solve", "Solve", "concepts erased"),
    ("mining", "Mining, 30 prompts of 70 tokens", "M = N"),
    ("growth", "One solve for many concepts", "concepts"),
)


@dataclass(frozen=True)
class Result:
    """A benchmark's section and how it was measured.

    Attributes:
        section: what was found.
        size: full, quick or smoke.
        machine: what was measured on, with the number of threads.
        seconds: how long it took.
    """

    section: Section
    size: str
    machine: str
    seconds: float


def read(path: Path) -> dict[str, Result]:
    """Return what an earlier run has kept, by benchmark; nothing without a file.

    Raises:
        ArtifactError: the file is not what `write` has written.
    """
    if not path.exists():
        return {}
    try:
        return {name: _result(value) for name, value in read_json(path).items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: not the results of this program; accepted: remove it, or another --out"
        ) from error


def write(results: Mapping[str, Result], path: Path) -> None:
    """Write the results as JSON."""
    write_json({name: asdict(result) for name, result in results.items()}, path)


def table(section: Section) -> str:
    """Return a section's figures as a Markdown table."""
    lines = ["| measured | ours | beside | its | ratio (rounds) | aim | |", "|---|---:|---|---:|---|---|---|"]
    for line in section.figures:
        cells = (
            line.what,
            _amount(line.ours, line.unit),
            line.against,
            _amount(line.other, line.unit),
            _ratio(line),
            _aim(line),
            line.note,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def text(results: Mapping[str, Result]) -> str:
    """Return all tables with their headings, and what they were measured on."""
    parts = []
    for name, title in TITLES.items():
        if name in results:
            result = results[name]
            look = "" if result.size == "full" else f"; a {result.size} look, not a full measurement"
            parts.append(f"### {title}\n\n{table(result.section)}\n\n{result.machine}; {result.seconds:.0f} s{look}.")
    return "\n\n".join(parts)


def plot(results: Mapping[str, Result]) -> str:
    """Return an SVG with one panel a benchmark that has curves, both axes in powers of ten."""
    panels = [panel for panel in PANELS if panel[0] in results and results[panel[0]].section.curves]
    width, height = PANEL_WIDTH * max(1, len(panels)), PANEL_HEIGHT
    start = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        'font-family="sans-serif" font-size="12"><rect width="{w}" height="{h}" fill="white"/>'
    ).format(w=width, h=height)
    drawn = [
        _panel(index * PANEL_WIDTH, title, x_name, results[name].section.curves)
        for index, (name, title, x_name) in enumerate(panels)
    ]
    return str(Markup("\n").join([start, *drawn, Markup("</svg>\n")]))


def _result(value: Mapping[str, Any]) -> Result:
    section = value["section"]
    figures = [Figure(**figure) for figure in section["figures"]]
    curves = {name: [(x, y) for x, y in points] for name, points in section["curves"].items()}
    return Result(Section(figures, curves), value["size"], value["machine"], value["seconds"])


def _amount(value: float, unit: str) -> str:
    """Return a number with three digits and its unit."""
    if unit == "s" and value < 1:
        return f"{_digits(1000 * value)} ms"
    return f"{_digits(value)} {unit}"


def _digits(value: float) -> str:
    places = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{round(value, places):,.{max(0, min(places, 2))}f}"


def _ratio(line: Figure) -> str:
    around = "" if line.low == line.high else f" ({_digits(line.low)} to {_digits(line.high)})"
    return f"**{_digits(line.ratio)}** {line.reads}{around}"


def _aim(line: Figure) -> str:
    if line.aim is None:
        return ""
    bound = "at least" if line.reads == "times as fast" else "at most"
    return f"{bound} {line.aim:g}: {'met' if line.is_met else '**not met**'}"


@dataclass(frozen=True)
class _Log:
    """An axis in powers of ten."""

    low: int
    high: int
    start: float
    stop: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, stop: float) -> "_Log":
        low = math.floor(math.log10(min(values)) + 1e-9)
        return cls(low, max(low + 1, math.ceil(math.log10(max(values)) - 1e-9)), start, stop)

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 1)

    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self.low, self.high + 1)]


def _panel(left: float, title: str, x_name: str, curves: Mapping[str, Curve]) -> Markup:
    points = [point for curve in curves.values() for point in curve]
    x = _Log.around([point[0] for point in points], left + LEFT, left + PANEL_WIDTH - RIGHT)
    y = _Log.around([point[1] for point in points], PANEL_HEIGHT - BOTTOM, TOP)
    parts = [_text((x.start + x.stop) / 2, 22, title, 14)]
    for tick in y.ticks():
        parts += [
            _line(x.start, y.at(tick), x.stop, y.at(tick)),
            _text(x.start - 6, y.at(tick) + 4, f"{tick:g} s", 12, "end"),
        ]
    for tick in x.ticks():
        parts += [_line(x.at(tick), y.start, x.at(tick), y.start + 4), _text(x.at(tick), y.start + 18, f"{tick:,g}")]
    parts.append(_text((x.start + x.stop) / 2, y.start + 36, x_name))
    for index, (name, curve) in enumerate(sorted(curves.items())):
        colour = COLOURS[index % len(COLOURS)]
        places = [(x.at(a), y.at(b)) for a, b in sorted(curve)]
        parts.append(_curve(places, colour))
        height = y.start + 58 + 17 * index
        parts += [_curve([(x.start, height - 4), (x.start + 22, height - 4)], colour)]
        parts.append(_text(x.start + 30, height, name, 12, "start"))
    return Markup("\n").join(parts)


def _curve(places: Sequence[tuple[float, float]], colour: str) -> Markup:
    line = Markup('<polyline fill="none" stroke="{}" stroke-width="2" points="{}"/>').format(
        colour, " ".join(f"{a:g},{b:g}" for a, b in places)
    )
    dots = [Markup('<circle cx="{:g}" cy="{:g}" r="3" fill="{}"/>').format(a, b, colour) for a, b in places]
    return Markup("").join([line, *dots])


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line stroke="#cbd5e1" x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}"/>').format(x1, y1, x2, y2)


def _text(x: float, y: float, words: str, size: int = 12, anchor: str = "middle") -> Markup:
    template = '<text x="{:g}" y="{:g}" text-anchor="{}" font-size="{}">{}</text>'
    return Markup(template).format(x, y, anchor, size, words)
