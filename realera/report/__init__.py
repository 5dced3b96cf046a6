"""The report: metrics, plots, contact sheets and one page of HTML that needs nothing beside it.

Free of torch and diffusers, and the same bytes for the same artifacts.

May import: `settings` to `scores`.
"""

from pathlib import Path

from realera.report import geometry, page, pictures, tables
from realera.report.inputs import MOST_SHOWN, Inputs, read_inputs
from realera.report.panel import is_blurred
from realera.scores.summary import average
from realera.settings.config import Params
from realera.settings.presets import load_preset
from realera.store.artifacts import atomic_path, write_json

__all__ = ["write_report"]


def write_report(params: Params, artifacts: Path, reports: Path) -> Path:
    """Write metrics.json, figures.csv, plots, sheets and index.html of every concept and method in `params`.

    Args:
        params: the project's parameters, as the other stages read them.
        artifacts: folder with a folder for each concept, and `shared`.
        reports: folder to write into.

    Returns:
        The page's path.

    Raises:
        ArtifactError: an artifact is missing or unreadable.
        ConfigError: a preset is missing or not accepted.
    """
    presets = {concept: load_preset(concept) for concept in params.concepts}
    inputs = [
        read_inputs(concept, method, artifacts, _name(concept, method, params))
        for concept in params.concepts
        for method in params.methods
    ]
    summaries: tables.Summaries = {(each.concept, each.method): each.scores for each in inputs}
    averages = {method: average([summaries[concept, method] for concept in presets]) for method in params.methods}
    span = params.sampler.span
    points = {each.name: geometry.points(each.prompts, each.chain.samples, span) for each in inputs if each.chain}
    html = page.render(params, inputs, presets, summaries, averages, points)
    sheets = {each.name: _sheet(each, is_blurred(presets[each.concept], params)) for each in inputs}
    if len(presets) > 1:
        summaries |= {(tables.AVERAGE, method): each for method, each in averages.items()}
    write_json(tables.flat_metrics(summaries, params.score.reading), reports / "metrics.json")
    tables.write_figures(reports / "figures.csv", summaries)
    with atomic_path(reports / "plots") as folder:
        tables.write_plots(folder, inputs, points)
    with atomic_path(reports / "sheets") as folder:
        folder.mkdir()
        for name, sheet in sheets.items():
            (folder / f"{name}.png").write_bytes(sheet)
    with atomic_path(reports / "index.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
    return reports / "index.html"


def _name(concept: str, method: str, params: Params) -> str:
    return concept if len(params.methods) == 1 else f"{concept}-{method}"


def _sheet(inputs: Inputs, blur: bool) -> bytes:
    limits = dict.fromkeys(MOST_SHOWN, pictures.COLUMNS)
    title = f"{inputs.name}: original model above, erased model below, same prompts and seeds"
    return pictures.contact_sheet(pictures.words(inputs, limits, blur), title)
