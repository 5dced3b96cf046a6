"""How well a concept was erased: section 5.1 of the paper, in two readings, with intervals.

Acc_e: images of the targets, Acc_s: of the remaining classes, Acc_g: of the targets' synonyms,
each judged in a forced choice of classes against its own (the synonyms': their target's) class.
The published figure is the mean softmax probability of that class ("probability"); how often it
is the most probable one is what an accuracy should be ("top1"). All values are percent.

Within a group each word weighs the same. Images are paired: the base model and the erased one
draw the same prompt from the same seed. `realera.metrics.estimates` says how intervals are made.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from realera.concepts import Preset
from realera.config import ScoreParams
from realera.errors import ArtifactError
from realera.metrics.estimates import DIFFERENCE, MODELS, READINGS, Estimate, combine, estimate, figure, render
from realera.metrics.statistics import mean_interval

__all__ = ["MODELS", "READINGS", "as_text", "average", "h_o", "summarize"]

H_O_TERMS = ("Acc_e", "Acc_s", "Acc_g")
SOURCES = {
    "Acc_e": ("erase", "classes"),
    "Acc_s": ("preserve", "classes"),
    "Acc_g": ("synonym", "classes"),
    "unseen": ("unseen", "unseen"),
    "anchor_seen": ("erase", "anchor"),
    "anchor_seen_synonym": ("synonym", "anchor"),
}
"""Metric -> the group of its images and the forced choice that they are judged in.

"unseen" is Acc_s on concepts that no preserve set holds; the last two ask how often the anchor
is what appears.
"""

METRICS = (*H_O_TERMS, "H_o", "unseen", "anchor_seen", "anchor_seen_synonym")
PARTS = (*MODELS, DIFFERENCE)

_DETAILED = (*H_O_TERMS, "unseen")
_ON_SHARED_IMAGES = ("Acc_s", "unseen")

Rows = list[dict[str, Any]]


def h_o(acc_e: float, acc_s: float, acc_g: float | None = None) -> float:
    """Return the harmonic mean of section 5.1, in percent; without Acc_g that of the other two.

    H_o = 3 / (1 / (100 - Acc_e) + 1 / Acc_s + 1 / (100 - Acc_g)), and 0 where a denominator is 0.

    Raises:
        ValueError: a value is not a percentage.
    """
    values = [value for value in (acc_e, acc_s, acc_g) if value is not None]
    if not all(0 <= value <= 100 for value in values):
        raise ValueError(f"found {values}; accepted: percentages, 0 to 100")
    return float(_harmonic(H_O_TERMS[: len(values)], [np.asarray(value, dtype=np.float64) for value in values]))


def summarize(scores: pa.Table, params: ScoreParams, preset: Preset) -> dict[str, Any]:
    """Return scores.json from the rows of scores.parquet.

    Keys:
        base, erased, difference: metric -> reading -> {value, low, high, n}, n being images;
            difference is erased - base of pairs; a metric without images is null.
        H_o_terms: what H_o is the mean of; a preset without synonyms has no Acc_g.
        anchor_floor: for each target and anchor, the base model's images of the anchor judged as
            if they were the target's: what a forced choice gives to a picture without it.
        words, prompts: the same figures for each word and each prompt.
        labels: the words of each forced choice.
        targets, anchors, confidence: as given; anchors one for each target.

    Raises:
        ArtifactError: an image is there twice, lacks its pair, or an anchor has no images.
    """
    rows = scores.to_pylist()
    estimates = _estimates(rows, params, preset)
    rendered = {name: render(value, params) for name, value in estimates.items()}
    return {
        **{part: {name: rendered.get(name, {}).get(part) for name in METRICS} for part in PARTS},
        "H_o_terms": [name for name in H_O_TERMS if name in estimates],
        "anchor_floor": [_anchor_floor(rows, target, anchor, params) for target, anchor in preset.pairs()],
        "words": _details(rows, params, ("word", "parent")),
        "prompts": _details(rows, params, ("word", "parent", "prompt")),
        "labels": {row["metric"]: row["labels"] for row in rows},
        "targets": list(preset.targets),
        "anchors": [anchor for _, anchor in preset.pairs()],
        "confidence": params.confidence,
    }


def average(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return {part: {metric: {reading: figure}}} averaged over concepts, the paper's last column.

    H_o is the mean of the concepts' H_o, not H_o of the means. The concepts' intervals are put
    together by `statistics.mean_interval`: as independent where every concept has images of its
    own. Acc_s and unseen rest on images of the base model that concepts share, so there the half
    widths are averaged, which is never too narrow. n is the sum of the images, `concepts` how many
    have the metric. The concepts count as given: nothing is said about other ones.

    Raises:
        ValueError: no summaries.
    """
    if not summaries:
        raise ValueError("found no summaries; accepted: one or more")
    return {
        part: {name: _average([summary[part][name] for summary in summaries], name) for name in METRICS}
        for part in PARTS
    }


def as_text(summary: Mapping[str, Any]) -> str:
    """Return a short table for people, of a summary or an average: before, after, change."""
    lines = [f"{'percent':<32}{'before':>21}{'after':>21}{'change':>24}"]
    for name in METRICS:
        for reading in READINGS if summary["base"][name] else ():
            before, after, change = (summary[part][name][reading] for part in PARTS)
            cells = f"{_cell(before):>21}{_cell(after):>21}{_cell(change, '+'):>24}"
            lines.append(f"{name:<20}{reading:<12}{cells}")
    return "\n".join(lines)


def _estimates(rows: Rows, params: ScoreParams, preset: Preset) -> dict[str, Estimate]:
    """Estimate every metric that has images."""
    found = {}
    for name, (group, metric) in SOURCES.items():
        strata = _pairs(_select(rows, group, metric), ("word", "parent"), _label(name, preset))
        if strata:
            found[name] = estimate(strata, params, name)
    terms = [name for name in H_O_TERMS if name in found]
    if terms:
        found["H_o"] = combine(lambda values: _harmonic(terms, values), [found[name] for name in terms])
    return found


def _harmonic(names: Sequence[str], values: Sequence[np.ndarray]) -> np.ndarray:
    """Return the harmonic mean of what is kept (Acc_s) and what is gone (100 - the others)."""
    good = [value if name == "Acc_s" else 100 - value for name, value in zip(names, values, strict=True)]
    good = [np.where(value > 0, value, 0.0) for value in good]  # rounding can pass zero
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(len(good) / sum(1 / value for value in good))


def _label(name: str, preset: Preset) -> Callable[[str], str]:
    """Return what gives, for an image's parent, the label that the metric asks about."""
    anchors = dict(preset.pairs())
    return anchors.__getitem__ if name.startswith("anchor_seen") else str


def _select(rows: Rows, group: str, metric: str) -> Rows:
    return [row for row in rows if (row["group"], row["metric"]) == (group, metric)]


def _pairs(rows: Rows, by: Sequence[str], label: Callable[[str], str] = str) -> dict[tuple, np.ndarray]:
    """Return readings [image, model, reading] of the pairs in each stratum."""
    strata = defaultdict(list)
    for _, (readings, row) in sorted(_images(rows, label).items()):  # the order of rows is no matter
        for model in MODELS:
            if model not in readings:
                raise ArtifactError(
                    f"scores: {_describe(row)}: no image of the {model} model with this prompt and seed"
                )
        strata[tuple(row[name] for name in by)].append([readings[model] for model in MODELS])
    return {key: np.array(values) for key, values in strata.items()}


def _images(rows: Iterable[dict[str, Any]], label: Callable[[str], str]) -> dict[tuple, tuple[dict, dict]]:
    """Return, for each image that both models should have, ({model: readings}, one of its rows)."""
    images: dict[tuple, tuple[dict, dict]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("word", "parent", "prompt", "seed"))
        readings, _ = images.setdefault(key, ({}, row))
        if row["model"] in readings:
            raise ArtifactError(f"scores: {_describe(row)}: found twice for the {row['model']} model")
        readings[row["model"]] = _read(row, label(row["parent"]))
    return images


def _read(row: Mapping[str, Any], label: str) -> tuple[float, float]:
    """Return the label's probability, and 1 if no other is more probable, else 0."""
    probability = row["probabilities"][row["labels"].index(label)]
    return probability, float(probability == max(row["probabilities"]))


def _describe(row: Mapping[str, Any]) -> str:
    return f"{row['group']} {row['word']!r}, prompt {row['prompt']!r}, seed {row['seed']}"


def _anchor_floor(rows: Rows, target: str, anchor: str, params: ScoreParams) -> dict[str, Any]:
    found = [row for row in _select(rows, "anchor", "classes") if (row["word"], row["parent"]) == (anchor, target)]
    if not found:
        raise ArtifactError(f"scores: no image of the anchor {anchor!r} of {target!r} by the base model")
    readings = [values["base"] for _, (values, _) in sorted(_images(found, str).items())]
    floor = estimate({(anchor,): np.array(readings)[:, None]}, params, "anchor_floor", target)
    return {"target": target, "anchor": anchor, **render(floor, params)["base"]}


def _details(rows: Rows, params: ScoreParams, by: Sequence[str]) -> list[dict[str, Any]]:
    """Return the figures of each stratum of the groups that are judged by their own class."""
    details = []
    for group, metric in (SOURCES[name] for name in _DETAILED):
        for key, values in _pairs(_select(rows, group, metric), by).items():
            figures = render(estimate({key: values}, params, group, *key), params)
            details.append({"group": group, **dict(zip(by, key, strict=True)), "n": len(values), **figures})
    return details


def _average(metrics: Sequence[Mapping[str, Any] | None], name: str) -> dict[str, Any] | None:
    known = [metric for metric in metrics if metric]
    return (
        {reading: _average_figures([metric[reading] for metric in known], name) for reading in READINGS}
        if known
        else None
    )


def _average_figures(figures: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    values, lows, highs = ([each[key] for each in figures] for key in ("value", "low", "high"))
    low, high = mean_interval(values, lows, highs, independent=name not in _ON_SHARED_IMAGES)
    n = sum(each["n"] for each in figures)
    return {**figure(float(np.mean(values)), low, high, n), "concepts": len(figures)}


def _cell(shown: Mapping[str, Any], sign: str = "") -> str:
    return f"{shown['value']:{sign}.1f} [{shown['low']:{sign}.1f}, {shown['high']:{sign}.1f}]"
