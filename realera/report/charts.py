"""The report's charts: loss, sampler geometry, residuals of the closed form."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup

from realera.report import svg
from realera.report.geometry import Point, nearest_preserved
from realera.settings.config import SamplerParams

_LOSS_TERMS = ("erase", "preserve")
_WINDOW = 10
_LONGEST_NAME = 40
_LETTER = 5.6
_ROW = 15


def loss_chart(rows: Sequence[Mapping[str, float | None]]) -> Markup:
    """Return the loss' terms by step: each step a dot, the mean of the last steps a line."""
    steps = [row["step"] or 0.0 for row in rows]
    series = {term: _series(rows, term) for term in _LOSS_TERMS}
    values = [value for points in series.values() for _, value in points if value > 0]
    x = svg.x_axis("step", 0, max(steps, default=1.0))
    y = svg.log_axis(
        "squared error of the noise, log scale", 0.8 * min(values, default=0.1), 1.25 * max(values, default=1.0)
    )
    marks = []
    for term, points in series.items():
        marks += [svg.dot(a, b, x, y, f"faint {term}", radius=1.6) for a, b in points]
        marks += [svg.line(_smooth(points), x, y, term)] if points else []
    label = f"Loss by training step, {len(rows)} steps. The numbers are in loss.csv."
    return svg.chart(label, x, y, marks)


def geometry_chart(points: Sequence[Point], sampler: SamplerParams) -> Markup:
    """Return where samples, anchors and preserved prompts lie: distance against cosine."""
    distances = [point.distance for point in points]
    cosines = [point.cosine for point in points]
    limits = _distance_limits(sampler)
    x = svg.x_axis("distance from the target, in its own length", 0, 1.06 * max([*distances, *limits.values(), 0.1]))
    y = svg.y_axis("cosine with the target", min([*cosines, 0.0]), 1.06)
    marks = [svg.limit(value, x, y, name) for name, value in limits.items()]
    marks += [svg.dot(point.distance, point.cosine, x, y, point.kind, point.label, _radius(point)) for point in points]
    marks += [_name(point, x, y) for point in _named(points)]
    return svg.chart(_geometry_label(points), x, y, marks)


def residual_chart(layers: Sequence[Mapping[str, Any]]) -> Markup:
    """Return each matrix's residuals before (ring) and after (dot) the solve."""
    height = 60 + _ROW * len(layers)
    values = [layer[key] for layer in layers for key in ("erase_before", "erase_after", "preserve_after")]
    x = svg.x_axis("residual, relative to the wanted output", 0, 1.05 * max([*values, 0.01]))
    y = svg.y_axis("matrix, first layer at the top", -len(layers) - 0.5, -0.5, height, has_ticks=False)
    marks = [mark for index, layer in enumerate(layers, 1) for mark in _residual_marks(layer, -index, x, y)]
    label = f"Residuals of {len(layers)} matrices before and after the closed form. The table below has the numbers."
    return svg.chart(label, x, y, marks, height)


def _series(rows: Sequence[Mapping[str, float | None]], term: str) -> list[tuple[float, float]]:
    pairs = [(row["step"], row.get(term)) for row in rows]
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the running mean of the last `_WINDOW` values."""
    values = [value for _, value in points]
    return [(step, fmean(values[max(0, index + 1 - _WINDOW) : index + 1])) for index, (step, _) in enumerate(points)]


def _distance_limits(sampler: SamplerParams) -> dict[str, float]:
    """Return D1 and D2 where they are relative lengths, as the plot's axis is."""
    if sampler.units != "relative":
        return {}
    limits = {"D1": sampler.D1} if sampler.M or sampler.N else {}
    return limits | ({"D2": sampler.D2} if sampler.N else {})


def _named(points: Sequence[Point]) -> list[Point]:
    """Return the nearest anchor and the nearest preserved prompt."""
    anchors = sorted((point for point in points if point.kind == "anchor"), key=lambda point: point.distance)
    return [*anchors[:1], *nearest_preserved(points, 1)]


def _name(point: Point, x: svg.Axis, y: svg.Axis) -> Markup:
    """Return a point's label, above and to the right of it, where the plot is empty."""
    words = point.label or "(empty prompt)"
    short = words if len(words) <= _LONGEST_NAME else words[: _LONGEST_NAME - 1] + "…"
    place = min(x.at(point.distance) + 6, x.stop - _LETTER * len(short))
    return svg.text(round(place, 1), y.at(point.cosine) - 9, short, "name")


def _radius(point: Point) -> float:
    return {"anchor": 5, "preserve": 3}.get(point.kind, 2)


def _geometry_label(points: Sequence[Point]) -> str:
    """Say in words where the kinds lie, for those who cannot see the plot."""
    parts = []
    for kind in ("neighbor", "anchor", "preserve", "beyond"):
        distances = [point.distance for point in points if point.kind == kind]
        if distances:
            parts.append(f"{kind}: {min(distances):.2f} to {max(distances):.2f}")
    return "Distance from the target in its own length. " + "; ".join(parts)


def _residual_marks(layer: Mapping[str, Any], place: int, x: svg.Axis, y: svg.Axis) -> list[Markup]:
    before, after = layer["erase_before"], layer["erase_after"]
    title = f"{layer['name']}: to the anchor {before:.3f} before, {after:.3f} after"
    kept = f"{layer['name']}: preserved {layer['preserve_after']:.3f}"
    return [
        svg.line([(before, place), (after, place)], x, y, "thin"),
        svg.dot(before, place, x, y, "ring", title, 4),
        svg.dot(after, place, x, y, "erased", title, 4),
        svg.dot(layer["preserve_after"], place, x, y, "preserve", kept, 3),
    ]
