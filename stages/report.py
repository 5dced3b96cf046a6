"""Stage report: numbers, plots, contact sheets and the page, of all concepts together."""

from pathlib import Path

import typer

from realera.artifacts import read_json
from realera.config import Params, load_params
from realera.metrics.erasure import as_text, average
from realera.report import write_report
from realera.stage import ARTIFACTS, artifact, stage_errors

REPORTS = Path("reports")


def main() -> None:
    """Write reports/: metrics.json, plots, sheets, index.html; print the figures before and after."""
    with stage_errors():
        params = load_params()
        page = write_report(params, ARTIFACTS, REPORTS)
        print(result_table(params))
        print(f"\nreport: {page}")


def result_table(params: Params) -> str:
    """Return each concept's figures, and the mean where there are several."""
    scores = {concept: read_json(artifact(concept, "scores.json")) for concept in params.concepts}
    tables = [f"{concept}\n{as_text(each)}" for concept, each in scores.items()]
    if len(scores) > 1:
        tables.append(f"mean of {len(scores)} concepts\n{as_text(average(list(scores.values())))}")
    return "\n\n".join(tables)


if __name__ == "__main__":
    typer.run(main)
