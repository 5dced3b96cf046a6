"""The report's numbers as files: metrics.json and plots for DVC, and figures.csv with every figure and its interval."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from realera.report.geometry import Point
from realera.report.inputs import LOSS_COLUMNS, Inputs
from realera.scores.readings import READINGS
from realera.scores.summary import PARTS, figures_of
from realera.store.artifacts import atomic_path

Summaries = dict[tuple[str, str], Mapping[str, Any]]
"""(concept, method) -> scores.json; concept AVERAGE: the mean over concepts."""

Averages = Mapping[Any, Mapping[str, Any]]
"""Method -> the mean over concepts."""

AVERAGE = "average"

HEADLINES = ("Acc_e", "Acc_s", "Acc_g", "H_o", "residue", "collateral", "unseen")
"""What metrics.json has of an erased model, each by one reading; figures.csv has the rest."""

FIGURE_COLUMNS = ("concept", "method", "metric", "reading", "model", "value", "low", "high", "n")
POINT_COLUMNS = ("kind", "prompt", "distance", "cosine")
_DIGITS = 4


def flat_metrics(summaries: Summaries, reading: str) -> dict[str, float]:
    """Return {"airplane.realera.H_o": 97.2, ...}: few enough columns for `dvc metrics show` and `dvc exp show`.

    Args:
        summaries: scores.json by concept and method.
        reading: `score.reading`; of an erasure that has no such reading nothing is shown.
    """
    flat = {}
    for (concept, method), summary in summaries.items():
        chosen = headline_reading(summary) if reading == "auto" else reading
        for metric in HEADLINES:
            if figure := (summary["erased"].get(metric) or {}).get(chosen):
                flat[f"{concept}.{method}.{metric}"] = _rounded(figure["value"])
    return flat


def headline_reading(summary: Mapping[str, Any]) -> str:
    """Return the reading that stands for a summary: the first in H_o, else the first of all."""
    readings: Sequence[str] = summary["readings"]
    return next((name for name in readings if READINGS[name].in_h_o), next(iter(readings), ""))


def write_figures(path: Path, summaries: Summaries) -> None:
    """Write FIGURE_COLUMNS of every figure: of the base model, the erased one, and the difference of pairs."""
    _write_csv(path, FIGURE_COLUMNS, figure_rows(summaries))


def figure_rows(summaries: Summaries) -> Iterator[tuple[Any, ...]]:
    """Yield FIGURE_COLUMNS of every figure."""
    for (concept, method), summary in summaries.items():
        for metric, reading, by_part in figures_of(summary):
            for model, figure in zip(PARTS, by_part, strict=True):
                if figure:
                    values = [_rounded(figure[name]) for name in ("value", "low", "high")]
                    yield concept, method, metric, reading, model, *values, figure["n"]


def write_plots(folder: Path, inputs: Sequence[Inputs], points: Mapping[str, Sequence[Point]]) -> None:
    """Write loss/<name>.csv and geometry/<name>.csv of RealEra's erasures.

    DVC draws a line or a cloud from each file, so concepts have files of their own.
    """
    for name in ("loss", "geometry"):
        (folder / name).mkdir(parents=True)
    for each in inputs:
        if each.chain is None:
            continue
        losses = ([row.get(name) for name in LOSS_COLUMNS] for row in each.chain.loss)
        _write_csv(folder / "loss" / f"{each.name}.csv", LOSS_COLUMNS, losses)
        places = ((p.kind, p.label, _rounded(p.distance), _rounded(p.cosine)) for p in points[each.name])
        _write_csv(folder / "geometry" / f"{each.name}.csv", POINT_COLUMNS, places)


def _rounded(value: float) -> float:
    """Round, and turn -0.0 into 0.0: equal numbers are equal bytes."""
    return round(float(value), _DIGITS) + 0.0


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(["" if value is None else value for value in row] for row in rows)
