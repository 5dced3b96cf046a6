"""Figures of groups of images with their intervals, before and after an edit.

Images come in strata, one a word, and strata weigh the same. Intervals hold for the words as they
are; nothing is said about other words:
- means, and what is computed from them: bootstrap over the images of each word;
- proportions of one model: Wilson's interval;
- differences of proportions, and what is computed from them: draws from Jeffreys' law (see
  `statistics.proportion_draws`), which, unlike a bootstrap, is not sure of itself where no image
  or every image hits.

Where images lack a reading (NaN), the two models' draws are independent of each other: the images
that are left need not be pairs. That is rather too wide than too narrow.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from realera.scores.readings import READINGS
from realera.scores.statistics import (
    bootstrap_means,
    effective_number,
    percentile_interval,
    proportion_draws,
    wilson_interval,
)
from realera.settings.config import ScoreParams

MODELS = ("base", "erased")
DIFFERENCE = "difference"

Strata = Mapping[tuple, np.ndarray]
"""Key of a stratum -> values [image, model, reading]; the base model alone, or both in pairs."""

_DECIMALS = 4


@dataclass(frozen=True)
class Estimate:
    """A figure.

    Attributes:
        readings: their names.
        value_mr: [model, reading]; NaN where no image has the reading.
        draws_kmr: [num_resamples, model, reading]; what is computed from draws has its interval.
        n_mr: images.
        effective_n_mr: for the interval of a proportion; NaN where the figure is none.
    """

    readings: tuple[str, ...]
    value_mr: np.ndarray
    draws_kmr: np.ndarray
    n_mr: np.ndarray
    effective_n_mr: np.ndarray

    def only(self, readings: Sequence[str]) -> "Estimate":
        """Return the estimate of some of its readings."""
        index = [self.readings.index(name) for name in readings]
        return Estimate(
            tuple(readings),
            self.value_mr[:, index],
            self.draws_kmr[:, :, index],
            self.n_mr[:, index],
            self.effective_n_mr[:, index],
        )


def estimate(strata: Strata, readings: Sequence[str], params: ScoreParams, *key: str) -> Estimate:
    """Estimate a group of images; one seed and key give the same draws.

    Raises:
        ValueError: no strata.
    """
    if not strata:
        raise ValueError("found no images; accepted: one or more")
    parts = [strata[name] for name in sorted(strata)]
    columns = [_column([part[..., r] for part in parts], name, params, key) for r, name in enumerate(readings)]
    value, draws, n, effective = zip(*columns, strict=True)
    return Estimate(tuple(readings), np.stack(value, -1), np.stack(draws, -1), np.stack(n, -1), np.stack(effective, -1))


def combine(function: Callable[[list[np.ndarray]], np.ndarray], terms: list[Estimate]) -> Estimate:
    """Apply a function of several figures to their values and to their draws, which are independent."""
    return Estimate(
        terms[0].readings,
        value_mr=function([term.value_mr for term in terms]),
        draws_kmr=function([term.draws_kmr for term in terms]),
        n_mr=np.sum([term.n_mr for term in terms], axis=0),
        effective_n_mr=np.full_like(terms[0].value_mr, np.nan),
    )


def joined(estimates: Sequence[Estimate]) -> Estimate:
    """Return one estimate with the readings of several."""
    return Estimate(
        tuple(name for each in estimates for name in each.readings),
        *(
            np.concatenate([getattr(each, field) for each in estimates], axis=-1)
            for field in ("value_mr", "draws_kmr", "n_mr", "effective_n_mr")
        ),
    )


def render(estimate: Estimate, params: ScoreParams) -> dict[str, Any]:
    """Return {model or "difference": {reading: {value, low, high, n}}}; a reading without images is left out.

    The difference is erased - base, of pairs; a figure of the base model alone has none.
    """
    models = MODELS[: len(estimate.value_mr)]
    rendered: dict[str, Any] = {}
    for m, model in enumerate(models):
        known = [r for r in range(len(estimate.readings)) if np.isfinite(estimate.value_mr[m, r])]
        rendered[model] = {estimate.readings[r]: _of_model(estimate, m, r, params) for r in known}
    if len(models) == len(MODELS):
        both = [name for name in estimate.readings if all(name in rendered[model] for model in models)]
        rendered[DIFFERENCE] = {name: _of_pairs(estimate, estimate.readings.index(name), params) for name in both}
    return rendered


def figure(value: float, low: float, high: float, n: int) -> dict[str, Any]:
    """Return a figure as it is stored: rounded, with its interval and its number of images."""
    return {
        "value": _rounded(value),
        "low": _rounded(low),
        "high": _rounded(high),
        "n": int(n),
    }


Column = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Value [model], draws [num_resamples, model], n [model], effective n [model]."""


def _column(parts: list[np.ndarray], name: str, params: ScoreParams, key: Sequence[str]) -> Column:
    """Estimate one reading of strata [image, model]."""
    if all(np.isfinite(part).all() for part in parts):
        return _of_values(parts, name, params, key)
    models = range(parts[0].shape[1])
    each = [_finite([part[:, m : m + 1] for part in parts], name, params, (*key, MODELS[m])) for m in models]
    return tuple(np.concatenate([column[i] for column in each], axis=-1) for i in range(4))  # type: ignore[return-value]


def _finite(parts: list[np.ndarray], name: str, params: ScoreParams, key: Sequence[str]) -> Column:
    """Estimate one model's reading from the images that have it."""
    kept = [part[np.isfinite(part[:, 0])] for part in parts]
    kept = [part for part in kept if len(part)]
    if kept:
        return _of_values(kept, name, params, key)
    nothing = np.full(1, np.nan)
    return nothing, np.full((params.num_resamples, 1), np.nan), np.zeros(1), nothing


def _of_values(parts: list[np.ndarray], name: str, params: ScoreParams, key: Sequence[str]) -> Column:
    reading = READINGS[name]
    generator = np.random.default_rng(_seed(params.seed, *key, name))
    draw = proportion_draws if reading.is_proportion else bootstrap_means
    draws = draw(parts, generator, params.num_resamples)
    value = np.mean([part.mean(axis=0) for part in parts], axis=0)
    counts = [len(part) for part in parts]
    effective = effective_number(counts) if reading.is_proportion else np.nan
    models = np.ones(len(value))
    return reading.scale * value, reading.scale * draws, sum(counts) * models, effective * models


def _of_model(estimate: Estimate, m: int, r: int, params: ScoreParams) -> dict[str, Any]:
    value, n = float(estimate.value_mr[m, r]), float(estimate.effective_n_mr[m, r])
    if np.isfinite(n):
        successes = min(max(value / 100, 0.0), 1.0) * n
        low, high = (100 * bound for bound in wilson_interval(successes, n, params.confidence))
    else:
        low, high = percentile_interval(estimate.draws_kmr[:, m, r], value, params.confidence)
    return figure(value, low, high, int(estimate.n_mr[m, r]))


def _of_pairs(estimate: Estimate, r: int, params: ScoreParams) -> dict[str, Any]:
    before, after = estimate.value_mr[:, r]
    draws = estimate.draws_kmr[:, 1, r] - estimate.draws_kmr[:, 0, r]
    interval = percentile_interval(draws, float(after - before), params.confidence)
    return figure(after - before, *interval, int(estimate.n_mr[:, r].min()))


def _rounded(value: float) -> float:
    return round(float(value), _DECIMALS) + 0.0  # no -0.0


def _seed(*parts: int | str) -> int:
    """Return a seed that differs with every part: metrics are drawn independently."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")
