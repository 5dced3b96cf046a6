"""One concept's part of the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from realera.report import paper, words
from realera.report.charts import geometry_chart, loss_chart, residual_chart
from realera.report.geometry import Point, nearest_preserved
from realera.report.inputs import Chain, Inputs
from realera.report.pictures import Pair, Word, data_uri, size_on_page
from realera.report.pictures import words as picture_words
from realera.scores.body_parts import RULES
from realera.scores.readings import READINGS
from realera.scores.readings import shown as shown_figure
from realera.scores.summary import MODELS, ROWS
from realera.settings.config import Params
from realera.settings.presets import Preset
from realera.store.images import FILE_GROUPS
from realera.text.prompt_table import NotErased

_NEAREST = 6
_KINDS = (
    ("neighbor", "neighbor samples"),
    ("beyond", "beyond samples"),
    ("anchor", "anchor"),
    ("preserve", "preserved prompts"),
)


def concept_panel(inputs: Inputs, preset: Preset, params: Params, points: Sequence[Point]) -> dict[str, Any]:
    """Return what the template concept.html shows."""
    return {
        "concept": inputs.name,
        "title": f"{joined(preset.targets)} becomes {joined(dict.fromkeys(preset.anchors))}{_by(inputs)}",
        "summary": _summary(preset, inputs.scores),
        "cards": cards(inputs.scores),
        "blurred": is_blurred(preset, params),
        "pictures": _pictures(inputs, is_blurred(preset, params)),
        "readings": [words.READINGS[reading] for reading in inputs.scores["readings"]],
        "words": _words(inputs.scores),
        "effects": _effects(inputs.scores),
        "detections": _detections(inputs.scores),
        "sets": _sets(inputs.scores),
        "paper": paper_rows(inputs.concept, preset, inputs.scores),
        "chain": _chain(inputs.chain, params, points) if inputs.chain else None,
        "preset": _preset(preset),
    }


def _by(inputs: Inputs) -> str:
    """Say the method where there are several."""
    return "" if inputs.name == inputs.concept else f", by {inputs.method}"


def is_blurred(preset: Preset, params: Params) -> bool:
    """Say whether the pictures of a preset are shown blurred."""
    return preset.task == "explicit" and params.report.explicit_images == "blurred"


def cards(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the headline figures of a summary or an average, before and after."""
    found = []
    for metric, (title, wish, about) in words.METRICS.items():
        readings = [_reading(summary, metric, name) for name in summary["readings"] if _is_in(summary, metric, name)]
        floor = _floor(summary) if metric == "Acc_e" else ""
        card = {"metric": metric, "title": title, "wish": wish, "about": about, "floor": floor, "readings": readings}
        found += [card] if readings else []
    return found


def _is_in(summary: Mapping[str, Any], metric: str, reading: str) -> bool:
    """Say whether a card shows a reading: those on a scale of 100 that both models have."""
    return READINGS[reading].in_h_o and reading in (summary["difference"].get(metric) or {})


def _floor(summary: Mapping[str, Any]) -> str:
    """Say what the anchors' own pictures score: no erasure can be expected below it."""
    return "; ".join(
        f"Floor: pictures of {floor['anchor']} itself are taken for {floor['target']} "
        f"at {floor['probability']['value']:.1f} (top-1: {floor['top1']['value']:.1f}), before any erasure"
        for floor in summary.get("anchor_floor", ())
    )


def joined(names: Sequence[str] | Mapping[str, Any]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    *start, last = names
    return f"{', '.join(start)} and {last}" if start else last


def shown(value: Any) -> str:
    """Return a parameter as it would stand in the YAML file."""
    if isinstance(value, list | tuple):
        return ", ".join(shown(item) for item in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return '""' if value == "" else f"{value}"


def _reading(summary: Mapping[str, Any], metric: str, reading: str) -> dict[str, Any]:
    old, new, change = (summary[part][metric][reading] for part in ("base", "erased", "difference"))
    return {"name": reading, "title": words.READINGS[reading], "old": old, "new": new, "change": change}


def _summary(preset: Preset, scores: Mapping[str, Any]) -> str:
    anchors = joined(dict.fromkeys(preset.anchors))
    text = (
        f"Prompts with {joined(preset.targets)} or what means the same are to draw {anchors} instead; "
        "everything else is to stay as it was."
    )
    seen = scores["erased"].get("anchor_seen")
    if not seen or "top1" not in seen:
        return text
    return (
        f"{text} Asked for by name, {seen['top1']['value']:.0f}% of the pictures now look like {anchors} to the judge."
    )


def _pictures(inputs: Inputs, blur: bool) -> list[dict[str, Any]]:
    found = picture_words(inputs, blur=blur)
    return [
        {
            "title": title,
            "about": about,
            "wide": group in ("erase", "anchor", *FILE_GROUPS),
            "words": [_word(word) for word in found if word.group == group],
        }
        for group, (title, about) in words.GROUPS.items()
        if any(word.group == group for word in found)
    ]


def _word(word: Word) -> dict[str, Any]:
    about = {
        "synonym": f"counted as {word.parent}",
        "associated": f"counted as {word.parent}",
        "rows": "first row",
        "listed": "first row",
    }.get(word.group, "prompt")
    return {"word": word.word, "about": about, "prompt": word.prompt, "pairs": [_pair(pair) for pair in word.pairs]}


def _pair(pair: Pair) -> dict[str, Any]:
    width, height = size_on_page(pair.original)
    return {
        "seed": pair.seed,
        "prompt": pair.prompt if pair.prompt.strip() else "(a blank prompt)",
        "width": width,
        "height": height,
        "original": data_uri(pair.original),
        "erased": data_uri(pair.erased) if pair.erased else None,
        "seen_original": _seen(pair.seen_original),
        "seen_erased": _seen(pair.seen_erased),
    }


def _seen(judged: tuple[str, float] | None) -> tuple[str, str] | None:
    return (judged[0], f"{100 * judged[1]:.0f}%") if judged else None


def _words(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups = []
    for group, (title, _) in words.GROUPS.items():
        rows = [row for row in scores["words"] if row["group"] == group and row.get("erased")]
        inside = [_word_row(row, scores["readings"]) for row in rows]
        groups += [{"title": title, "rows": inside}] if inside else []
    return groups


def _word_row(row: Mapping[str, Any], readings: Sequence[str]) -> dict[str, Any]:
    cells = [cell(row[model].get(reading), reading) for reading in readings for model in MODELS]
    return {"word": row["word"], "cells": cells, "n": row["n"]}


def cell(figure: Mapping[str, Any] | None, reading: str) -> tuple[str, str]:
    """Return a figure's value and its interval as text; empty where there is none."""
    value, _, interval = shown_figure(figure, reading).partition(" ")
    return value, interval


def _effects(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    effects = dict(words.EFFECTS)
    effects |= {name: _file_words(name, scores) for name in scores["base"] if name.startswith(ROWS)}
    rows: list[dict[str, Any]] = [
        {"title": title, "about": about, "cells": _before_and_after(scores, metric)}
        for metric, (title, about) in effects.items()
        if scores["base"].get(metric)
    ]
    for floor in scores["anchor_floor"]:
        title = f"Floor: {floor['anchor']} taken for {floor['target']}"
        cells = [pair for reading in scores["readings"] for pair in (cell(floor.get(reading), reading), ("", ""))]
        rows.append({"title": title, "about": words.FLOOR, "cells": cells})
    return rows


def _file_words(metric: str, scores: Mapping[str, Any]) -> tuple[str, str]:
    name, _, part = metric.removeprefix(ROWS).partition("/")
    about = words.FILES.get(name, words.PARTS.get(part, words.PARTS[""]))
    skipped = scores.get("skipped_rows", {}).get(name)
    left_out = f" {skipped} of its rows could not be drawn and were left out when it was added." if skipped else ""
    return f"Prompt file {name}{f', {part}' if part else ''}", about + left_out


def _before_and_after(scores: Mapping[str, Any], metric: str) -> list[tuple[str, str]]:
    parts = [scores[model].get(metric) or {} for model in MODELS]
    return [cell(part.get(reading), reading) for reading in scores["readings"] for part in parts]


def _detections(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a table for each source of images: part of the body, boxes and images, before and after."""
    return [
        {
            "title": source,
            "rows": [
                {"label": label, "cells": [_count(parts[model][rule]) for rule in RULES for model in MODELS]}
                for label, parts in table.items()
            ],
        }
        for source, table in scores.get("detections", {}).items()
    ]


def _sets(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the distances between sets of pictures: a row a set."""
    return [
        {
            "title": words.GROUPS.get(name, (f"Prompt file {name}", ""))[0],
            "cells": [(f"{d['value']:.4f}", f"[{d['low']:.4f}, {d['high']:.4f}]") for d in distances.values()],
            "names": list(distances),
            "n": next(iter(distances.values()))["n"],
        }
        for name, distances in scores.get("sets", {}).items()
    ]


def _count(figure: Mapping[str, Any]) -> tuple[str, str]:
    return f"{figure['value']:.0f}", f"[{figure['low']:.0f}, {figure['high']:.0f}]"


def paper_rows(concept: str, preset: Preset, scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return ours beside the paper's rows of the same concept: {"columns", "rows"}; None where it has none."""
    found = paper.for_concept(concept) or paper.for_concept("-".join(preset.targets).lower().replace(" ", "-"))
    if not found:
        return None
    columns = list(dict.fromkeys(row.metric for row in found))
    reading = next((name for name in words.PAPER_READINGS[preset.task] if name in scores["readings"]), "")
    rows = [
        {"name": f"{title}, here", "cells": [_of_ours(scores[part], name, reading) for name in columns], "ours": True}
        for title, part in (("base model", "base"), ("erased", "erased"))
    ]
    for (table, method, _), values in paper.by_line(found).items():
        cells = ["" if (value := values.get(metric)) is None else f"{value:g}" for metric in columns]
        rows.append({"name": f"{method} (paper, {table})", "cells": cells, "ours": False})
    return {"columns": columns, "rows": rows, "reading": words.READINGS.get(reading, reading)}


def _of_ours(part: Mapping[str, Any], metric: str, reading: str) -> str:
    return shown_figure((part.get(metric) or {}).get(reading), reading) if reading else ""


def _chain(chain: Chain, params: Params, points: Sequence[Point]) -> dict[str, Any]:
    """Return what RealEra's own stages say of themselves."""
    return {
        "geometry": _geometry(chain, params, points),
        "solve": _solve(chain.solve, params),
        "loss": _loss(chain, params),
    }


def _geometry(chain: Chain, params: Params, points: Sequence[Point]) -> dict[str, Any]:
    token = "the name's last token" if params.sampler.span == "concept" else "the end-of-text token"
    kinds = {point.kind for point in points}
    return {
        "about": f"Text embeddings at {token}, seen from the target's: how far away, in the target's own length, "
        "and at what angle. Neighbors go to the anchor with the target; beyond samples and preserved prompts stay.",
        "kinds": [(kind, name) for kind, name in _KINDS if kind in kinds],
        "chart": geometry_chart(points, params.sampler),
        "near": nearest_preserved(points, _NEAREST),
        "mined": [_mined(kind, chain.mining[kind]) for kind in ("neighbor", "beyond") if chain.mining[kind]],
        "not_erased": [NotErased(**each).sentence() for each in chain.mining.get("not_erased", ())],
    }


def _mined(kind: str, entry: Mapping[str, Any]) -> list[str]:
    """Return kind, number, share of draws accepted, distances and cosines."""
    ranges = (_range(entry["relative_radius"]), _range(entry["cosine"]))
    count = entry["num_samples"]
    return [kind, "infinitely many" if count == "inf" else f"{count:,}", _share(entry["acceptance"]), *ranges]


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"


def _range(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def _solve(solve: Mapping[str, Any], params: Params) -> dict[str, Any]:
    rows, width = solve["rows"], solve["width"]
    total = sum(rows.values())
    facts = [(f"rows: {name}", f"{rows[name]:,}") for name in ("target", "neighbor", "preserve", "beyond")]
    facts += [("all rows", f"{total:,}"), ("width of the embedding", f"{width:,}")]
    if solve["condition_number"] is not None:
        facts += [("condition number", f"{solve['condition_number']:.3g}")]
        facts += [("ridge, effective", f"{solve['ridge']:.3g}")]
    return {
        "about": words.SOLVE if params.solver.enabled else words.SOLVE_OFF,
        "facts": facts,
        "chart": residual_chart(solve["layers"]),
        "layers": solve["layers"],
    }


def _loss(chain: Chain, params: Params) -> dict[str, Any]:
    if not chain.loss:
        return {"about": "Switched off (lora.steps: 0).", "chart": None}
    about = (
        f"{len(chain.loss)} steps of a LoRA of rank {params.lora.rank}: dots are single steps, at random noise "
        "levels; lines are the mean of the last ten of their kind."
    )
    return {"about": about, "chart": loss_chart(chain.loss)}


def _preset(preset: Preset) -> list[dict[str, Any]]:
    plain = preset.model_dump(mode="json")
    associated = plain["draw"].pop("associated")
    nested = {key: plain.pop(key) for key in ("preserve", "draw", "judged")}
    synonyms = plain.pop("synonyms")
    rows = [(key, shown(value)) for key, value in plain.items()]
    rows += [(f"synonyms of {target}", shown(found)) for target, found in synonyms.items()]
    rows += [(f"associated with {target}", shown(found)) for target, found in associated.items()]
    rows += [(f"{section}.{key}", shown(value)) for section, values in nested.items() for key, value in values.items()]
    return [{"name": "preset", "rows": rows}]
