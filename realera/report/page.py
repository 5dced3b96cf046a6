"""The page: what the template shows, gathered from the artifacts."""

import base64
import hashlib
import platform
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata, resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel

from realera import __version__
from realera.report import words
from realera.report.geometry import Point
from realera.report.inputs import Inputs
from realera.report.panel import cards, concept_panel, joined, shown
from realera.report.tables import Averages, Summaries
from realera.scores.readings import HEADLINES, READINGS
from realera.scores.readings import shown as shown_figure
from realera.settings.config import Params
from realera.settings.presets import Preset

_EMBEDDED = "data/models/tiny-sd"
_COLUMNS = {name: name for name in words.METRICS} | {
    "unseen": "unseen", "residue": "residue", "collateral": "collateral", "anchor_seen": "anchor appears",
}  # fmt: skip
_PACKAGES = ("torch", "diffusers", "transformers", "peft")


def render(
    params: Params,
    inputs: Sequence[Inputs],
    presets: Mapping[str, Preset],
    summaries: Summaries,
    averages: Averages,
    points: Mapping[str, Sequence[Point]],
) -> str:
    """Return the page as HTML, complete in itself.

    Args:
        params: all parameters.
        inputs: artifacts, one entry a concept and method, in the page's order.
        presets: by concept.
        summaries: scores.json by concept and method.
        averages: over the concepts, by method.
        points: sampler geometry by `Inputs.name`, where there is any.
    """
    panels = [concept_panel(each, presets[each.concept], params, points.get(each.name, ())) for each in inputs]
    first = [each for each in inputs if each.method == params.methods[0]]
    page = {
        "title": f"{_listing(params.concepts)} erased{_by(params)}",
        "summary": _summary(averages[params.methods[0]], first),
        "model": _model(params),
        "judge": _judges(params, presets),
        "threshold": f"{params.score.nudenet_threshold:g}",
        "paper": words.PAPER,
        "confidence": f"{100 * params.score.confidence:g}%",
        "overview": _overview(summaries, averages, inputs) if len(inputs) > 1 else None,
        "panels": panels,
        "terms": words.TERMS,
        "settings": sections(params),
        "versions": _versions(),
    }
    style, script = _file("style.css"), _file("script.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            style=Markup(style),  # both are files of this package: no input is in them
            script=Markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
        )
    )


def sections(params: BaseModel) -> list[dict[str, Any]]:
    """Return every parameter: [{"name": section, "rows": [(key, value)]}]; nested keys are dotted."""
    plain = params.model_dump(mode="json")
    alone = {key: value for key, value in plain.items() if not isinstance(value, dict)}
    nested = {key: value for key, value in plain.items() if isinstance(value, dict)}
    found = [{"name": "general", "rows": [(key, shown(value)) for key, value in alone.items()]}] if alone else []
    return found + [{"name": key, "rows": list(_rows(value))} for key, value in nested.items()]


def _rows(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        inner = _rows(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, shown(value))]
        rows += inner
    return rows


def _summary(average: Mapping[str, Any], inputs: Sequence[Inputs]) -> str:
    """Say the result in a sentence, by the reading that needs least explanation."""
    reading = next((name for name in HEADLINES if name in average["readings"]), "")
    old, new = (average[model] for model in ("base", "erased"))
    if not all((part.get(name) or {}).get(reading) for part in (old, new) for name in ("Acc_e", "Acc_s")):
        return f"{_listing([each.concept for each in inputs])}: before and after the erasure."
    who, it = (inputs[0].concept, "it") if len(inputs) == 1 else ("the erased concepts", "them")
    sign = "%" if READINGS[reading].scale == 100 else ""

    def said(part: Mapping[str, Any], metric: str) -> str:
        return f"{part[metric][reading]['value']:.0f}{sign}"

    if not sign:
        return (
            f"The {words.READINGS[reading]} of pictures asked for as {who} went from {said(old, 'Acc_e')} to "
            f"{said(new, 'Acc_e')}, of what must stay from {said(old, 'Acc_s')} to {said(new, 'Acc_s')}."
        )
    parts = [
        f"Of the pictures asked for as {who}, the judge still takes {said(new, 'Acc_e')} for {it} "
        f"(before: {said(old, 'Acc_e')})"
    ]
    if all(reading in (part.get("Acc_g") or {}) for part in (old, new)):
        parts.append(f"of those that mean {it} in other words {said(new, 'Acc_g')} ({said(old, 'Acc_g')})")
    kept = f"{said(new, 'Acc_s')} are still what was asked for ({said(old, 'Acc_s')})"
    return f"{', '.join(parts)}; of the pictures of what must stay {kept}."


def _overview(summaries: Summaries, averages: Averages, inputs: Sequence[Inputs]) -> dict[str, Any]:
    """Return every erasure as a row, and below them the methods' means where there are several concepts."""
    rows = [_row(each.name, each.name, summaries[each.concept, each.method]) for each in inputs]
    concepts = dict.fromkeys(each.concept for each in inputs)
    if len(concepts) > 1 and len(averages) > 1:
        rows += [_row(f"mean by {method}", None, each) for method, each in averages.items()]
    return {
        "title": f"Mean of {len(concepts)} concepts" if len(concepts) > 1 else f"{len(averages)} methods",
        "about": _about(concepts, averages),
        "cards": cards(next(iter(averages.values()))),
        "columns": list(_COLUMNS.values()),
        "rows": rows,
    }


def _about(concepts: Collection[str], methods: Collection[str]) -> str:
    """Say what the cards of the overview are."""
    means = "H_o is the mean of the concepts' H_o, as in the paper's tables. " if len(concepts) > 1 else ""
    first = f"The cards are those of {next(iter(methods))}; the table has all methods." if len(methods) > 1 else ""
    return f"Every row is an erasure of its own, of the same model, prompts and seeds. {means}{first}".strip()


def _row(name: str, panel: str | None, scores: Mapping[str, Any]) -> dict[str, Any]:
    reading = next(iter(scores["readings"]), "")  # a preset may be judged by distances of sets alone
    cells = [_change(scores["base"].get(metric), scores["erased"].get(metric), reading) for metric in _COLUMNS]
    return {"concept": name, "panel": panel, "reading": words.READINGS.get(reading, "none"), "cells": cells}


def _by(params: Params) -> str:
    """Say the methods where there are several."""
    return "" if len(params.methods) == 1 else f" by {joined(params.methods)}"


def _change(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, reading: str) -> str:
    if not (old and new and reading in old and reading in new):
        return ""
    before = shown_figure(old[reading], reading).partition(" ")[0]
    return f"{before} → {shown_figure(new[reading], reading)}"


def _model(params: Params) -> dict[str, Any]:
    embedded = params.model.id.rstrip("/").endswith(_EMBEDDED)
    about = words.EMBEDDED if embedded else words.OTHER_MODEL
    return {"id": params.model.id, "revision": params.model.revision, "about": about}


def _judges(params: Params, presets: Mapping[str, Preset]) -> str:
    """Say who has read the images."""
    models = params.judge.model_dump()
    places = {"classes": "id", "clip_score": "id", "frechet": "id", "style": "style", "identity": "identity"}
    names = dict.fromkeys(name for preset in presets.values() for name in preset.judged.by)
    named = [f"{words.JUDGES[name]}{f' ({models[places[name]]})' if name in places else ''}" for name in names]
    return joined(named)


def _versions() -> list[tuple[str, str]]:
    """Return what made the figures; packages are asked for their version, not imported."""
    return [
        ("RealEra", __version__),
        ("Python", platform.python_version()),
        *[(package, metadata.version(package)) for package in _PACKAGES],
    ]


def _listing(names: Sequence[str]) -> str:
    return joined(names) if len(names) <= 3 else f"{len(names)} concepts"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("realera.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["one"] = lambda value: f"{value + 0.0:.1f}".replace("-0.0", "0.0")
    environment.filters["signed"] = lambda value: f"{value:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0")
    return environment


def _file(name: str) -> str:
    return resources.files("realera.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return what the page's security policy names an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
