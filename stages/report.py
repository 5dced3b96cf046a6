"""Stage report: numbers, plots, contact sheets and the page, of all concepts together."""

import typer

from realera.report import write_report
from realera.report.results import result_table
from realera.runtime.console import stage_errors
from realera.settings.config import load_params
from realera.store.paths import ARTIFACTS, FIGURES, REPORTS


def main() -> None:
    """Write reports/: metrics.json, plots, sheets, index.html; print the figures before and after."""
    with stage_errors():
        params = load_params()
        page = write_report(params, ARTIFACTS, REPORTS)
        print(f"{result_table(FIGURES)}\n\nreport: {page}")


if __name__ == "__main__":
    typer.run(main)
