"""Shares of images with their intervals, before and after an edit, in two readings.

Images come in strata, one a word, and strata weigh the same. Intervals hold for the words as they
are; nothing is said about other words:
- probability, and what is computed from it: bootstrap over the images of each word;
- top1 of one model: Wilson's interval;
- differences of top1, and what is computed from it: draws from Jeffreys' law (see
  `statistics.proportion_draws`), which, unlike a bootstrap, is not sure of itself where no image
  or every image hits.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from realera.config import ScoreParams
from realera.metrics.statistics import (
    bootstrap_means,
    effective_number,
    percentile_interval,
    proportion_draws,
    wilson_interval,
)

MODELS = ("base", "erased")
READINGS = ("probability", "top1")
DIFFERENCE = "difference"

Strata = Mapping[tuple, np.ndarray]
"""Key of a stratum -> shares of 1, [image, model, reading]; the base model alone, or both in pairs."""

_DECIMALS = 4


@dataclass(frozen=True)
class Estimate:
    """A figure in percent.

    Attributes:
        value_mr: [model, reading].
        draws_kmr: [num_resamples, model, reading]; what is computed from draws has its interval.
        n: images of each model.
        effective_n: for the interval of a proportion; None if the figure is none.
    """

    value_mr: np.ndarray
    draws_kmr: np.ndarray
    n: int
    effective_n: float | None


def estimate(strata: Strata, params: ScoreParams, *key: str) -> Estimate:
    """Estimate the share of a group of images; one seed and key give the same draws.

    Raises:
        ValueError: no strata.
    """
    if not strata:
        raise ValueError("found no images; accepted: one or more")
    parts = [strata[name] for name in sorted(strata)]
    generator = np.random.default_rng(_seed(params.seed, *key))
    probability_km = bootstrap_means([part[..., 0] for part in parts], generator, params.num_resamples)
    top1_km = proportion_draws([part[..., 1] for part in parts], generator, params.num_resamples)
    counts = [len(part) for part in parts]
    return Estimate(
        value_mr=100 * np.mean([part.mean(axis=0) for part in parts], axis=0),
        draws_kmr=100 * np.stack([probability_km, top1_km], axis=-1),
        n=sum(counts),
        effective_n=effective_number(counts),
    )


def combine(function: Callable[[list[np.ndarray]], np.ndarray], terms: list[Estimate]) -> Estimate:
    """Apply a function of several figures to their values and to their draws, which are independent."""
    return Estimate(
        value_mr=function([term.value_mr for term in terms]),
        draws_kmr=function([term.draws_kmr for term in terms]),
        n=sum(term.n for term in terms),
        effective_n=None,
    )


def render(estimate: Estimate, params: ScoreParams) -> dict[str, Any]:
    """Return {model or "difference": {reading: {value, low, high, n}}}, in percent.

    The difference is erased - base, of pairs; a figure of the base model alone has none.
    """
    models = MODELS[: len(estimate.value_mr)]
    rendered = {
        model: {reading: _of_model(estimate, m, r, params) for r, reading in enumerate(READINGS)}
        for m, model in enumerate(models)
    }
    if len(models) == len(MODELS):
        rendered[DIFFERENCE] = {reading: _of_pairs(estimate, r, params) for r, reading in enumerate(READINGS)}
    return rendered


def figure(value: float, low: float, high: float, n: int) -> dict[str, Any]:
    """Return a figure as it is stored: rounded, with its interval and its number of images."""
    return {
        "value": _rounded(value),
        "low": _rounded(low),
        "high": _rounded(high),
        "n": n,
    }


def _of_model(estimate: Estimate, m: int, r: int, params: ScoreParams) -> dict[str, Any]:
    value, n = float(estimate.value_mr[m, r]), estimate.effective_n
    if READINGS[r] == "top1" and n is not None:
        successes = min(max(value / 100, 0.0), 1.0) * n
        low, high = (100 * bound for bound in wilson_interval(successes, n, params.confidence))
    else:
        low, high = percentile_interval(estimate.draws_kmr[:, m, r], value, params.confidence)
    return figure(value, low, high, estimate.n)


def _of_pairs(estimate: Estimate, r: int, params: ScoreParams) -> dict[str, Any]:
    before, after = estimate.value_mr[:, r]
    draws = estimate.draws_kmr[:, 1, r] - estimate.draws_kmr[:, 0, r]
    return figure(after - before, *percentile_interval(draws, float(after - before), params.confidence), estimate.n)


def _rounded(value: float) -> float:
    return round(float(value), _DECIMALS) + 0.0  # no -0.0


def _seed(*parts: int | str) -> int:
    """Return a seed that differs with every part: metrics are drawn independently."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")
