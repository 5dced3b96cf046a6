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
    """Write metrics.json, plots, sheets and index.html of every concept in `params`.

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
    inputs = [read_inputs(concept, artifacts) for concept in params.concepts]
    summaries = {each.concept: each.scores for each in inputs}
    summaries |= {tables.AVERAGE: average(list(summaries.values()))}
    span = params.sampler.span
    points = {each.concept: geometry.points(each.prompts, each.samples, span) for each in inputs}
    html = page.render(params, inputs, presets, summaries, points)
    sheets = {each.concept: _sheet(each, is_blurred(presets[each.concept], params)) for each in inputs}
    write_json(tables.flat_metrics(summaries), reports / "metrics.json")
    with atomic_path(reports / "plots") as folder:
        tables.write_plots(folder, inputs, summaries, points)
    with atomic_path(reports / "sheets") as folder:
        folder.mkdir()
        for concept, sheet in sheets.items():
            (folder / f"{concept}.png").write_bytes(sheet)
    with atomic_path(reports / "index.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
    return reports / "index.html"


def _sheet(inputs: Inputs, blur: bool) -> bytes:
    limits = dict.fromkeys(MOST_SHOWN, pictures.COLUMNS)
    title = f"{inputs.concept}: original model above, erased model below, same prompts and seeds"
    return pictures.contact_sheet(pictures.words(inputs, limits, blur), title)
