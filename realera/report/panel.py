"""One concept's part of the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from realera.concepts import Preset
from realera.config import Params
from realera.metrics.erasure import MODELS, READINGS
from realera.report import words
from realera.report.charts import geometry_chart, loss_chart, residual_chart
from realera.report.geometry import Point, nearest_preserved
from realera.report.inputs import Inputs
from realera.report.pictures import MOST_ON_PAGE, Pair, Word, data_uri, size_on_page
from realera.report.pictures import words as picture_words

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
        "concept": inputs.concept,
        "title": f"{joined(preset.targets)} becomes {joined(dict.fromkeys(preset.anchors))}",
        "summary": _summary(preset, inputs.scores),
        "cards": cards(inputs.scores),
        "pictures": _pictures(inputs),
        "words": _words(inputs.scores["words"]),
        "effects": _effects(inputs.scores),
        "geometry": _geometry(inputs, params, points),
        "solve": _solve(inputs.solve, params),
        "loss": _loss(inputs, params),
        "preset": _preset(preset),
    }


def cards(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the headline figures of a summary or an average, before and after."""
    return [
        {
            "metric": metric,
            "title": title,
            "wish": wish,
            "about": about,
            "floor": _floor(summary) if metric == "Acc_e" else "",
            "readings": [_reading(summary, metric, reading) for reading in READINGS],
        }
        for metric, (title, wish, about) in words.METRICS.items()
        if summary["base"].get(metric)
    ]


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
        f"Prompts with {joined(preset.targets)} and with synonyms are to draw {anchors} instead; "
        "everything else is to stay as it was."
    )
    seen = scores["erased"].get("anchor_seen")
    if not seen:
        return text
    return (
        f"{text} Asked for by name, {seen['top1']['value']:.0f}% of the pictures now look like {anchors} to the judge."
    )


def _pictures(inputs: Inputs) -> list[dict[str, Any]]:
    found = picture_words(inputs, MOST_ON_PAGE)
    return [
        {
            "title": title,
            "about": about,
            "wide": group in ("erase", "anchor"),
            "words": [_word(word) for word in found if word.group == group],
        }
        for group, (title, about) in words.GROUPS.items()
        if any(word.group == group for word in found)
    ]


def _word(word: Word) -> dict[str, Any]:
    about = f"counted as {word.parent}" if word.group == "synonym" else "prompt"
    return {"word": word.word, "about": about, "prompt": word.prompt, "pairs": [_pair(pair) for pair in word.pairs]}


def _pair(pair: Pair) -> dict[str, Any]:
    width, height = size_on_page(pair.original)
    return {
        "seed": pair.seed,
        "width": width,
        "height": height,
        "original": data_uri(pair.original),
        "erased": data_uri(pair.erased) if pair.erased else None,
        "seen_original": _seen(pair.seen_original),
        "seen_erased": _seen(pair.seen_erased),
    }


def _seen(judged: tuple[str, float] | None) -> tuple[str, str] | None:
    return (judged[0], f"{100 * judged[1]:.0f}%") if judged else None


def _words(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    groups = []
    for group, (title, _) in words.GROUPS.items():
        inside = [_word_row(row) for row in rows if row["group"] == group and row.get("erased")]
        groups += [{"title": title, "rows": inside}] if inside else []
    return groups


def _word_row(row: Mapping[str, Any]) -> dict[str, Any]:
    figures = [row[model][reading] for reading in READINGS for model in MODELS]
    return {"word": row["word"], "figures": figures, "n": figures[0]["n"]}


def _effects(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"title": title, "about": about, "figures": _before_and_after(scores, metric)}
        for metric, (title, about) in words.EFFECTS.items()
        if scores["base"].get(metric)
    ]
    for floor in scores["anchor_floor"]:
        title = f"Floor: {floor['anchor']} taken for {floor['target']}"
        figures = [figure for reading in READINGS for figure in (floor[reading], None)]
        rows.append({"title": title, "about": words.FLOOR, "figures": figures})
    return rows


def _before_and_after(scores: Mapping[str, Any], metric: str) -> list[Mapping[str, Any]]:
    return [scores[model][metric][reading] for reading in READINGS for model in MODELS]


def _geometry(inputs: Inputs, params: Params, points: Sequence[Point]) -> dict[str, Any]:
    token = "the name's last token" if params.sampler.span == "concept" else "the end-of-text token"
    kinds = {point.kind for point in points}
    return {
        "about": f"Text embeddings at {token}, seen from the target's: how far away, in the target's own length, "
        "and at what angle. Neighbors go to the anchor with the target; beyond samples and preserved prompts stay.",
        "kinds": [(kind, name) for kind, name in _KINDS if kind in kinds],
        "chart": geometry_chart(points, params.sampler),
        "near": nearest_preserved(points, _NEAREST),
        "mined": [_mined(kind, inputs.mining[kind]) for kind in ("neighbor", "beyond") if inputs.mining[kind]],
    }


def _mined(kind: str, entry: Mapping[str, Any]) -> list[str]:
    """Return kind, number, share of draws accepted, distances and cosines."""
    ranges = (_range(entry["relative_radius"]), _range(entry["cosine"]))
    return [kind, f"{entry['num_samples']:,}", _share(entry["acceptance"]), *ranges]


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


def _loss(inputs: Inputs, params: Params) -> dict[str, Any]:
    if not inputs.loss:
        return {"about": "Switched off (lora.steps: 0).", "chart": None}
    about = (
        f"{len(inputs.loss)} steps of a LoRA of rank {params.lora.rank}: dots are single steps, at random noise "
        "levels; lines are the mean of the last ten of their kind."
    )
    return {"about": about, "chart": loss_chart(inputs.loss)}


def _preset(preset: Preset) -> list[dict[str, Any]]:
    plain = preset.model_dump(mode="json")
    synonyms = plain.pop("synonyms")
    preserve = plain.pop("preserve")
    rows = [(key, shown(value)) for key, value in plain.items()]
    rows += [(f"synonyms of {target}", shown(found)) for target, found in synonyms.items()]
    rows += [(f"preserve.{key}", shown(value)) for key, value in preserve.items()]
    return [{"name": "preset", "rows": rows}]
