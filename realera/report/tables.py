"""The report's numbers as files: reports/metrics.json and reports/plots for `dvc metrics` and `dvc plots`."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from realera.report.geometry import Point
from realera.report.inputs import LOSS_COLUMNS, Inputs
from realera.scores.summary import MODELS, figures_of
from realera.store.artifacts import atomic_path

AVERAGE = "average"

METRIC_COLUMNS = ("concept", "metric", "reading", "model", "value", "low", "high", "n")
POINT_COLUMNS = ("kind", "prompt", "distance", "cosine")
_DIGITS = 4


def flat_metrics(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return {"airplane.H_o.probability.erased": 92.4, ".low": ..., ".high": ...}, flat for `dvc metrics`.

    Args:
        summaries: scores.json by concept, and AVERAGE.
    """
    flat = {}
    for concept, metric, reading, model, figure in _figures(summaries):
        key = f"{concept}.{metric}.{reading}.{model}"
        flat[key] = _rounded(figure["value"])
        flat |= {f"{key}.{side}": _rounded(figure[side]) for side in ("low", "high")}
    return flat


def metric_rows(summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
    """Yield METRIC_COLUMNS of every figure."""
    for concept, metric, reading, model, figure in _figures(summaries):
        values = [_rounded(figure[name]) for name in ("value", "low", "high")]
        yield concept, metric, reading, model, *values, figure["n"]


def write_plots(
    folder: Path,
    inputs: Sequence[Inputs],
    summaries: Mapping[str, Mapping[str, Any]],
    points: Mapping[str, Sequence[Point]],
) -> None:
    """Write metrics.csv, loss/<concept>.csv and geometry/<concept>.csv.

    DVC draws a line or a cloud from each file, so concepts have files of their own.
    """
    _write_csv(folder / "metrics.csv", METRIC_COLUMNS, metric_rows(summaries))
    for each in inputs:
        losses = ([row.get(name) for name in LOSS_COLUMNS] for row in each.loss)
        _write_csv(folder / "loss" / f"{each.concept}.csv", LOSS_COLUMNS, losses)
        places = ((p.kind, p.label, _rounded(p.distance), _rounded(p.cosine)) for p in points[each.concept])
        _write_csv(folder / "geometry" / f"{each.concept}.csv", POINT_COLUMNS, places)


def _figures(
    summaries: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, str, str, str, Mapping[str, Any]]]:
    for concept, summary in summaries.items():
        for metric, reading, by_part in figures_of(summary):
            for model, figure in zip(MODELS, by_part, strict=False):
                if figure:
                    yield concept, metric, reading, model, figure


def _rounded(value: float) -> float:
    """Round, and turn -0.0 into 0.0: equal numbers are equal bytes."""
    return round(float(value), _DIGITS) + 0.0


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(["" if value is None else value for value in row] for row in rows)
