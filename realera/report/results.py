"""The figures of the last report as tables for a terminal; read from reports/figures.csv, which git keeps."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realera.report.tables import AVERAGE, FIGURE_COLUMNS, HEADLINES, Summaries, headline_reading
from realera.scores.readings import READINGS, shown
from realera.scores.summary import PARTS, as_text
from realera.settings.errors import ArtifactError


def result_table(path: Path) -> str:
    """Return each erasure's figures before and after, the means, and the methods beside each other.

    Raises:
        ArtifactError: there is no report yet, or the file is no such table.
    """
    summaries = read_figures(path)
    methods = list(dict.fromkeys(method for _, method in summaries))
    tables = [f"{_title(*key, len(methods))}\n{as_text(summary)}" for key, summary in summaries.items()]
    if len(methods) > 1:
        tables.append(method_table(summaries))
    return "\n\n".join(tables)


def method_table(summaries: Summaries) -> str:
    """Return a row a concept and method: the erased model's headline figures by the first reading, with intervals."""
    lines = [f"{'after the erasure':<22}{'method':<10}" + "".join(f"{name:>21}" for name in HEADLINES)]
    for (concept, method), summary in summaries.items():
        reading = headline_reading(summary)
        cells = [shown((summary["erased"].get(name) or {}).get(reading), reading) for name in HEADLINES]
        lines.append(f"{concept:<22}{method:<10}" + "".join(f"{cell:>21}" for cell in cells))
    return "\n".join(lines)


def read_figures(path: Path) -> Summaries:
    """Read figures.csv; a summary of it has what `as_text` shows.

    Raises:
        ArtifactError: it is missing, or no such table.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: not there yet; made by: dvc repro")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if list(reader.fieldnames or ()) != list(FIGURE_COLUMNS):
                raise ValueError(f"columns {reader.fieldnames}")
            for row in reader:
                _add(found.setdefault((row["concept"], row["method"]), _empty()), row)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ArtifactError(f"{path}: found {error}; accepted: the table that the stage report writes") from error
    if not found:
        raise ArtifactError(f"{path}: found no figures; dvc repro makes them anew")
    return dict(found)


def _empty() -> dict[str, Any]:
    return {**{part: {} for part in PARTS}, "readings": []}


def _add(summary: dict[str, Any], row: Mapping[str, str]) -> None:
    figure = {name: float(row[name]) for name in ("value", "low", "high")} | {"n": int(row["n"])}
    for part in PARTS:
        summary[part].setdefault(row["metric"], {})
    summary[row["model"]][row["metric"]][row["reading"]] = figure
    readings = {*summary["readings"], row["reading"]}
    summary["readings"] = [name for name in READINGS if name in readings]


def _title(concept: str, method: str, num_methods: int) -> str:
    name = "mean of the concepts" if concept == AVERAGE else concept
    return name if num_methods == 1 else f"{name} by {method}"
