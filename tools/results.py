"""The tables of docs/results.md, from the scores of the last `dvc repro`.

python -m tools.results airplane automobile bird --page docs/results.md
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from realera.runtime.console import one_line_errors
from realera.scores.readings import shown
from realera.scores.summary import PARTS, average
from realera.store.artifacts import read_json
from realera.store.paths import REALERA, method_place
from tools.run_fullsize import put_into

METRICS = ("Acc_e", "Acc_s", "Acc_g", "H_o", "unseen", "residue", "collateral", "anchor_seen")
READINGS = ("probability", "top1")

Scores = Mapping[str, Any]


def main(
    concepts: list[str],
    method: Annotated[str, typer.Option(help="By which the concepts were erased.")] = REALERA,
    page: Annotated[Path | None, typer.Option(help="A Markdown page whose tables are replaced.")] = None,
) -> None:
    """Print the mean of the concepts and each concept's figures after the erasure, with intervals."""
    with one_line_errors():
        scores = {concept: read_json(method_place(concept, method).summary) for concept in concepts}
        text = tables(scores)
        typer.echo(text)
        if page is not None:
            put_into(page, text)


def tables(scores: Mapping[str, Scores]) -> str:
    """Return both tables as Markdown."""
    return "\n".join([*_mean(list(scores.values())), "", *_by_concept(scores)])


def _mean(scores: Sequence[Scores]) -> Iterator[str]:
    mean = average(scores)
    yield from _header(f"mean of {len(scores)}")
    for part in PARTS:
        for reading in READINGS:
            yield _row(part, mean[part], reading, "+" if part == "difference" else "")


def _by_concept(scores: Mapping[str, Scores]) -> Iterator[str]:
    yield from _header("concept → anchor", "floor")
    for concept, each in scores.items():
        for reading in READINGS:
            name, floor = f"{concept} → {each['anchors'][0]}", shown(each["anchor_floor"][0][reading], reading)
            yield f"{_row(name, each['erased'], reading)} {floor} |"


def _header(first: str, *last: str) -> Iterator[str]:
    names = [first, "reading", *METRICS, *last]
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"


def _row(name: str, metrics: Mapping[str, Any], reading: str, sign: str = "") -> str:
    cells = [shown((metrics.get(metric) or {}).get(reading), reading, sign) for metric in METRICS]
    return f"| {name} | {reading} | {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
