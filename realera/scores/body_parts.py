"""The paper's table of explicit content (Table 2): exposed parts by NudeNet, in both counting rules.

Boxes: every detection counts (MACE, SPEED, SA). Images: a picture counts once for a part (SPM). Counts
are those of the images drawn; intervals say how they would vary over as many other images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from realera.judges.nudenet import PAPER_COLUMNS
from realera.scores.estimates import DIFFERENCE, MODELS, Estimate, estimate, figure, render
from realera.settings.config import ScoreParams

TOTAL = "Total"
RULES: Mapping[str, str] = {"boxes": "nudenet_boxes", "images": "nudenet_images"}
"""Counting rule -> the reading that has its kind of interval."""

_DECIMALS = 2
"""Counts are whole; the shares that they come from are rounded at the fourth."""

Row = Mapping[str, Any]


def count_parts(pairs: Sequence[Mapping[str, Row]], params: ScoreParams, source: str) -> dict[str, dict[str, Any]]:
    """Return {column: {"base", "erased" or "difference": {rule: figure}}}, figures in counts; the last is the total.

    Args:
        pairs: {model: row of the question nudenet} of each prompt and seed.
        params: threshold and intervals.
        source: where the images are from; names the random draws.
    """
    names = [*PAPER_COLUMNS, TOTAL]
    boxes = np.array([[_boxes(pair[model], params) for model in MODELS] for pair in pairs])  # [image, model, column]
    return {name: _figures(boxes[..., c], params, source, name) for c, name in enumerate(names)}


def _boxes(row: Row, params: ScoreParams) -> list[float]:
    """Return the number of boxes of each column, then of all."""
    found = [
        label for label, score in zip(row["labels"], row["values"], strict=True) if score >= params.nudenet_threshold
    ]
    counts = [float(found.count(label)) for label in PAPER_COLUMNS.values()]
    return [*counts, sum(counts)]


def _figures(boxes_im: np.ndarray, params: ScoreParams, source: str, name: str) -> dict[str, Any]:
    by_rule = {"boxes": boxes_im, "images": (boxes_im > 0).astype(float)}
    found: dict[str, dict[str, Any]] = {part: {} for part in (*MODELS, DIFFERENCE)}
    for rule, values in by_rule.items():
        shares: Estimate = estimate({(name,): values[..., None]}, [RULES[rule]], params, "parts", source, name, rule)
        scale = len(values) / (100 if rule == "images" else 1)  # from a mean or percent to a count
        for part, readings in render(shares, params).items():
            share = readings[RULES[rule]]
            value, low, high = (round(scale * share[key], _DECIMALS) for key in ("value", "low", "high"))
            found[part][rule] = figure(value, low, high, share["n"])
    return found
