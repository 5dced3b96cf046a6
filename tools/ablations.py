"""Tables and surfaces of experiments: reads `dvc exp show --csv` and each one's figures.csv, writes Markdown and SVG.

python tools/ablations.py table automobile A AB ABC ABCD
python tools/ablations.py surface automobile sampler.M sampler.N --out docs/surface-M-N.svg
"""

import csv
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from markupsafe import Markup

from realera.report.results import read_figures
from realera.report.tables import Summaries
from realera.runtime.console import one_line_errors
from realera.settings.errors import RealEraError, first_line
from realera.store.artifacts import atomic_path
from realera.store.paths import FIGURES, REALERA

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)

METRICS = ("Acc_e", "Acc_s", "Acc_g", "H_o", "unseen")
READINGS = ("probability", "top1")
CELL_WIDTH, CELL_HEIGHT, LEFT, TOP = 110, 46, 90, 60

Row = dict[str, str]
Method = Annotated[str, typer.Option(help="By which the concept was erased.")]


@app.command()
def table(concept: str, names: list[str], method: Method = REALERA) -> None:
    """Print the named experiments' figures after the erasure, in both readings, with intervals."""
    with one_line_errors():
        rows = {row["Experiment"]: row for row in experiments()}
        if missing := [name for name in names if name not in rows]:
            raise RealEraError(f"no experiment {missing[0]!r}; accepted: {', '.join(sorted(rows))}")
        typer.echo("| experiment | reading | " + " | ".join(METRICS) + " |")
        typer.echo("|---|---" + "|---" * len(METRICS) + "|")
        for name in names:
            for reading in READINGS:
                cells = [_cell(rows[name], concept, method, metric, reading) for metric in METRICS]
                typer.echo(f"| {name} | {reading} | " + " | ".join(cells) + " |")


@app.command()
def surface(
    concept: str,
    x: Annotated[str, typer.Argument(help="Parameter along x, for instance sampler.M.")],
    y: Annotated[str, typer.Argument(help="Parameter along y.")],
    out: Annotated[Path, typer.Option(help="The SVG to write.")],
    prefix: Annotated[str, typer.Option(help="Only experiments whose name starts so.")] = "",
    reading: Annotated[str, typer.Option(help="probability or top1.")] = "probability",
    method: Method = REALERA,
) -> None:
    """Draw Acc_s - Acc_e (the paper's figure 5) over two parameters, as a map with numbers."""
    with one_line_errors():
        rows = [row for row in experiments() if row["Experiment"].startswith(prefix) and row.get(x) and row.get(y)]
        rows = [row for row in rows if _has(row, concept, method)]
        values = {(float(row[x]), float(row[y])): _gap(row, concept, method, reading) for row in rows}
        if not values:
            raise RealEraError(f"no experiment has {x}, {y} and figures of {concept!r}; see dvc exp show")
        with atomic_path(out) as path:
            path.write_text(heat_map(values, x, y, f"Acc_s - Acc_e, {concept}, {reading}"), encoding="utf-8")
        typer.echo(out)


def experiments() -> list[Row]:
    """Return the named experiments of the current commit, as `dvc exp show` lists them."""
    command = ["dvc", "exp", "show", "--csv", "--precision", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RealEraError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    return [row for row in csv.DictReader(done.stdout.splitlines()) if row["Experiment"]]


@cache
def figures(revision: str) -> Summaries:
    """Return the figures of an experiment's commit: metrics.json has a few of them, without intervals.

    Raises:
        RealEraError: the commit has no such table.
    """
    command = ["git", "show", f"{revision}:./{FIGURES.as_posix()}"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise RealEraError(f"{' '.join(command)}: {first_line(Exception(done.stderr.decode(errors='replace')))}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FIGURES.name
        path.write_bytes(done.stdout)
        return read_figures(path)


def heat_map(values: dict[tuple[float, float], tuple[float, float, float]], x: str, y: str, title: str) -> str:
    """Return an SVG with one cell a setting: the value, its interval below, darker is better.

    Args:
        values: (x, y) -> (value, low, high), in points.
        x: name of the horizontal parameter.
        y: name of the vertical one.
        title: above the map.
    """
    columns, lines = sorted({key[0] for key in values}), sorted({key[1] for key in values}, reverse=True)
    width, height = LEFT + CELL_WIDTH * len(columns) + 10, TOP + CELL_HEIGHT * len(lines) + 40
    middle = LEFT + CELL_WIDTH * len(columns) / 2
    parts = [
        Markup('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
               'font-family="sans-serif" font-size="13"><rect width="{w}" height="{h}" fill="white"/>').format(
                   w=width, h=height),
        _text(middle, 24, title, 15),
        _text(middle, height - 6, x),
        Markup('<text x="16" y="{}" text-anchor="middle" transform="rotate(-90 16 {})">{}</text>').format(
            TOP + CELL_HEIGHT * len(lines) / 2, TOP + CELL_HEIGHT * len(lines) / 2, y),
    ]  # fmt: skip
    parts += [_text(LEFT + CELL_WIDTH * (i + 0.5), height - 24, f"{value:g}") for i, value in enumerate(columns)]
    parts += [_text(LEFT - 26, TOP + CELL_HEIGHT * (i + 0.6), f"{value:g}") for i, value in enumerate(lines)]
    parts += [_square(LEFT + CELL_WIDTH * columns.index(key[0]), TOP + CELL_HEIGHT * lines.index(key[1]), value)
              for key, value in sorted(values.items())]  # fmt: skip
    return str(Markup("\n").join([*parts, Markup("</svg>\n")]))


def _square(left: float, top: float, value: tuple[float, float, float]) -> Markup:
    share = min(1.0, max(0.0, value[0] / 100))
    colour = f"rgb({round(255 - 205 * share)},{round(248 - 118 * share)},{round(240 - 60 * share)})"
    ink = "white" if share > 0.6 else "black"
    return Markup(
        '<rect x="{}" y="{}" width="{}" height="{}" fill="{}" stroke="white"/>'
        '<g fill="{}">{}{}</g>'
    ).format(
        left, top, CELL_WIDTH, CELL_HEIGHT, colour, ink,
        _text(left + CELL_WIDTH / 2, top + 20, f"{value[0]:.1f}", 15),
        _text(left + CELL_WIDTH / 2, top + 37, f"[{value[1]:.1f}, {value[2]:.1f}]", 11),
    )  # fmt: skip


def _text(x: float, y: float, text: str, size: int = 13) -> Markup:
    template = '<text x="{:g}" y="{:g}" text-anchor="middle" font-size="{}">{}</text>'
    return Markup(template).format(x, y, size, text)


def _cell(row: Row, concept: str, method: str, metric: str, reading: str) -> str:
    value, low, high = _triple(row, concept, method, metric, reading)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _gap(row: Row, concept: str, method: str, reading: str) -> tuple[float, float, float]:
    """Return Acc_s - Acc_e; its half widths are the two's, added in squares (their images are different)."""
    kept, gone = (_triple(row, concept, method, metric, reading) for metric in ("Acc_s", "Acc_e"))
    value = kept[0] - gone[0]
    down = ((kept[0] - kept[1]) ** 2 + (gone[2] - gone[0]) ** 2) ** 0.5
    up = ((kept[2] - kept[0]) ** 2 + (gone[0] - gone[1]) ** 2) ** 0.5
    return value, value - down, value + up


def _triple(row: Row, concept: str, method: str, metric: str, reading: str) -> Sequence[float]:
    """Return value, low and high of a figure after the erasure."""
    try:
        figure = figures(row["rev"])[concept, method]["erased"][metric][reading]
    except KeyError:
        what = f"{metric} ({reading}) of {concept} by {method}"
        raise RealEraError(f"{row['Experiment']}: no figure {what}; the experiment failed or erased another") from None
    return [figure[name] for name in ("value", "low", "high")]


def _has(row: Row, concept: str, method: str) -> bool:
    return bool(row.get(f"{concept}.{method}.Acc_s"))


if __name__ == "__main__":
    app()
