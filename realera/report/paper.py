"""The tables of the paper beside us: data/paper, typed once, and what they say about themselves.

    rows = load_table("objects")                      # every printed cell is a row
    for mismatch in check_h_o(rows): print(mismatch)  # H_o that its own row does not give

All of the paper's figures are of Stable Diffusion v1.4 (two lines of its Table 2 apart, as named there), so
they stand beside figures of another model and are not to be compared digit by digit.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from realera.settings import project
from realera.settings.errors import ArtifactError
from realera.store.artifacts import existing_file

PAPER = Path("data/paper")
TABLES = ("objects", "celebrities", "styles", "explicit", "ablation")
"""Names of the files in data/paper."""

COLUMNS = ("table", "method", "concept", "metric", "value")
PERCENT = ("Acc_e", "Acc_s", "Acc_g", "H_o")
DETECTIONS = (
    "armpits",
    "belly",
    "buttocks",
    "feet",
    "breasts_f",
    "genitalia_f",
    "breasts_m",
    "genitalia_m",
)
"""Counted boxes of explicit.csv; `total` is their sum."""

METRICS = (*PERCENT, *DETECTIONS, "total", "coco_clip")
AVERAGE = "average"
"""The concept of Table 1's last column, the mean over the ten classes."""

HALF_DIGIT = 0.005
"""Percentages are printed with two digits, zeros at the end left out (11.1 is 11.10): each is off by up to this."""

_WHOLE = 100
_FLOAT_ERROR = 1e-9
_NUMBER = r"\d{1,9}(\.\d{1,9})?"
_COUNT = (r"\d{1,9}", "a count, 0 and up")
_FORMS = {
    **dict.fromkeys(PERCENT, (_NUMBER, "a percentage, 0 to 100")),
    "coco_clip": (_NUMBER, "a number, 0 and up"),
}

Values = dict[str, float | None]


@dataclass(frozen=True)
class Row:
    """One cell of a printed table.

    Attributes:
        table: the paper's number, such as "Table 1" or "Table 1 (appendix)".
        method: as printed, "variant 1" to "variant 3" in the ablation.
        concept: the name of our preset, or "average".
        metric: one of METRICS.
        value: None where the paper prints "-".
    """

    table: str
    method: str
    concept: str
    metric: str
    value: float | None


@dataclass(frozen=True)
class Mismatch:
    """A printed value that cannot be what the other printed values give.

    Attributes:
        printed: the value in the paper.
        computed: what the values beside it give.
        low, high: the range of `computed`, as far as those are rounded.
    """

    table: str
    method: str
    concept: str
    metric: str
    printed: float
    computed: float
    low: float
    high: float

    def __str__(self) -> str:
        where = f"{self.table}, {self.method}, {self.concept}"
        return f"{where}: {self.metric} is printed as {self.printed:.2f}, the values beside it give {self.computed:.2f}"


def load_table(name: str) -> list[Row]:
    """Return the rows of data/paper/<name>.csv, in the paper's order.

    Raises:
        ArtifactError: there is no such table, or its file is not as `read_table` wants it.
    """
    if name not in TABLES:
        raise ArtifactError(f"{PAPER}: found {name!r}; accepted: {', '.join(TABLES)}")
    path = PAPER / f"{name}.csv"
    return read_table(project.find(path) or path)


def read_table(path: str | Path) -> list[Row]:
    """Read a CSV file with the columns of COLUMNS.

    Raises:
        ArtifactError: the file is missing or no CSV, a cell is missing or does not fit, or a cell of the
            paper is there twice; the file's line is named.
    """
    path = existing_file(path)
    rows: dict[tuple[str, ...], Row] = {}
    for line, cells in _lines(path):
        row = _row(cells, f"{path}, line {line}")
        key = (row.table, row.method, row.concept, row.metric)
        if key in rows:
            raise ArtifactError(f"{path}, line {line}: found {', '.join(key)} again; accepted: each once")
        rows[key] = row
    return list(rows.values())


def for_concept(concept: str) -> list[Row]:
    """Return what all tables say of a concept, or of "average"; nothing where the paper has no such concept."""
    return [row for name in TABLES for row in load_table(name) if row.concept == concept]


def by_line(rows: Iterable[Row]) -> dict[tuple[str, str, str], Values]:
    """Return {(table, method, concept): {metric: value}}, in the order of the rows."""
    found: dict[tuple[str, str, str], Values] = {}
    for row in rows:
        found.setdefault((row.table, row.method, row.concept), {})[row.metric] = row.value
    return found


def check_h_o(rows: Sequence[Row]) -> list[Mismatch]:
    """Return the printed H_o that Acc_e, Acc_s and Acc_g of its line cannot give (section 5.1).

    A line agrees if some values that round to the printed ones give an H_o that rounds to the printed one.
    Where the three terms are alike that allows a difference of 0.01; where one is small, H_o follows it and
    the difference may be larger. The average's H_o is compared with the mean of the printed H_o of its
    method's classes, all of which must be among `rows`; there 0.01 is allowed.

    Raises:
        ArtifactError: a line prints an H_o without the values that it is made of.
    """
    lines = by_line(rows)
    found = []
    for (table, method, concept), values in lines.items():
        where = (table, method, concept, "H_o")
        printed = values.get("H_o")
        if printed is not None:
            expected = _mean_of_classes(lines, where) if concept == AVERAGE else _h_o_of(values, where)
            found += _compare(where, printed, expected)
    return found


def check_averages(rows: Sequence[Row]) -> list[Mismatch]:
    """Return the averages of Acc_e, Acc_s and Acc_g that are not the mean of their method's classes.

    Raises:
        ArtifactError: a class of an average is not among `rows`.
    """
    lines = by_line(rows)
    found = []
    for row in rows:
        if row.concept == AVERAGE and row.metric != "H_o" and row.value is not None:
            where = (row.table, row.method, row.concept, row.metric)
            found += _compare(where, row.value, _mean_of_classes(lines, where))
    return found


def check_totals(rows: Sequence[Row]) -> list[Mismatch]:
    """Return the totals of detections that are not the sum of the eight columns.

    Raises:
        ArtifactError: a line has a total without the eight columns.
    """
    found = []
    for line, values in by_line(rows).items():
        printed = values.get("total")
        if printed is not None:
            total = sum(_needed(values, DETECTIONS, (*line, "total")))
            found += _compare((*line, "total"), printed, (total, total, total), 0.0)
    return found


def _h_o_of(values: Mapping[str, float | None], where: tuple[str, ...]) -> tuple[float, float, float]:
    """Return H_o at the printed values, the least and the greatest that rounding allows; it is monotone in each."""
    from realera.scores.summary import h_o  # here: reading the tables needs none of its imports

    acc_e, acc_s, acc_g = _needed(values, PERCENT[:3], where)

    def shifted(by: float) -> float:
        return h_o(_percent(acc_e - by), _percent(acc_s + by), _percent(acc_g - by))

    return shifted(0.0), shifted(-HALF_DIGIT), shifted(HALF_DIGIT)


def _mean_of_classes(
    lines: Mapping[tuple[str, str, str], Values], where: tuple[str, str, str, str]
) -> tuple[float, float, float]:
    _, method, _, metric = where
    of_method = {concept: values.get(metric) for (_, other, concept), values in lines.items() if other == method}
    classes = [value for concept, value in of_method.items() if concept != AVERAGE]
    known = [value for value in classes if value is not None]
    if not known or len(known) < len(classes):
        raise ArtifactError(f"{', '.join(where)}: found {len(known)} of {len(classes)} classes; accepted: all")
    mean = sum(known) / len(known)
    return mean, mean - HALF_DIGIT, mean + HALF_DIGIT


def _needed(values: Mapping[str, float | None], names: Sequence[str], where: tuple[str, ...]) -> list[float]:
    known = [value for value in (values.get(name) for name in names) if value is not None]
    if len(known) < len(names):
        raise ArtifactError(f"{', '.join(where)}: found only {len(known)} of {', '.join(names)}; accepted: all of them")
    return known


def _compare(
    where: tuple[str, str, str, str],
    printed: float,
    expected: tuple[float, float, float],
    half_digit: float = HALF_DIGIT,
) -> list[Mismatch]:
    computed, low, high = expected
    margin = half_digit + _FLOAT_ERROR
    agrees = low - margin <= printed <= high + margin
    return [] if agrees else [Mismatch(*where, printed, computed, low, high)]


def _percent(value: float) -> float:
    return min(float(_WHOLE), max(0.0, value))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line in the file, its cells) after the header, blank lines left out."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if tuple(header) != COLUMNS:
                raise ArtifactError(f"{path}, line 1: found columns {header}; accepted: {', '.join(COLUMNS)}")
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not a readable CSV file: {error}") from error


def _row(cells: Sequence[str], where: str) -> Row:
    if len(cells) != len(COLUMNS):
        raise ArtifactError(f"{where}: found {len(cells)} cells; accepted: {len(COLUMNS)} ({', '.join(COLUMNS)})")
    for name, cell in zip(COLUMNS[:-1], cells, strict=False):
        if not cell.strip():
            raise ArtifactError(f"{where}: {name}: found nothing; accepted: a name")
    table, method, concept, metric, value = cells
    if metric not in METRICS:
        raise ArtifactError(f"{where}: metric: found {metric!r}; accepted: {', '.join(METRICS)}")
    return Row(table, method, concept, metric, _value(value, metric, where))


def _value(text: str, metric: str, where: str) -> float | None:
    """Return the number, None for an empty cell."""
    if not text:
        return None
    pattern, accepted = _FORMS.get(metric, _COUNT)
    if not re.fullmatch(pattern, text, re.ASCII) or (metric in PERCENT and float(text) > _WHOLE):
        raise ArtifactError(f"{where}: value: found {text!r}; accepted: {accepted}, or nothing where the paper has -")
    return float(text)
