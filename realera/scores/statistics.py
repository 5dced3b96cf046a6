"""Intervals for proportions and means, and random draws of them for what is computed from several."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

_RESAMPLED_VALUES_AT_ONCE = 1 << 22


def wilson_interval(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), with p = successes / n.
    It stays inside [0, 1] and has a width also when nothing or everything succeeded. Both
    counts may be fractions, as effective numbers are.

    Raises:
        ValueError: n < 1, successes outside [0, n] or confidence outside (0, 1).
    """
    _check_confidence(confidence)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"found {successes} successes of {n}; accepted: 0 to n of n >= 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else (middle - half) / scale
    high = 1.0 if successes == n else (middle + half) / scale
    return low, high


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    seed: int,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of `values`, [num_values].

    Raises:
        ValueError: no values, values that are not finite, num_resamples < 1 or confidence
            outside (0, 1).
    """
    _check_confidence(confidence)
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"found values of shape {array.shape}; accepted: a list of finite numbers")
    if num_resamples < 1:
        raise ValueError(f"num_resamples: found {num_resamples}; accepted: 1 or more")
    means = _resampled_means(array, np.random.default_rng(seed), num_resamples)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bootstrap_means(strata: Sequence[np.ndarray], generator: np.random.Generator, num_resamples: int) -> np.ndarray:
    """Return draws [num_resamples, ...] of the mean over strata of each stratum's mean.

    Every stratum weighs the same and is resampled on its own. Of its n values n - 1 are drawn
    with replacement, which makes the variance of the draws s^2 / n with the unbiased s^2 (Rao
    and Wu 1988); n draws would be too narrow for the few images of a word. The spread of a
    single value is unknown: it is taken as it is and adds no width.

    Args:
        strata: arrays [n_i, ...] of one trailing shape, n_i >= 1.
        generator: of numpy; the strata use it one after the other.
        num_resamples: number of draws.
    """
    means = [_resampled_means(values, generator, num_resamples, max(1, len(values) - 1)) for values in strata]
    return np.asarray(np.mean(means, axis=0))


def proportion_draws(strata: Sequence[np.ndarray], generator: np.random.Generator, num_resamples: int) -> np.ndarray:
    """Return draws [num_resamples, m] of m paired proportions.

    A bootstrap of a proportion of 0 or 1 has no width. These draws have: each outcome of m
    paired trials is one of 2^m cells, and the cells' shares follow the Dirichlet law of their
    counts + 1 / 2^m. Each proportion by itself then follows Beta(successes + 1/2, failures +
    1/2), Jeffreys' law, whose intervals are close to Wilson's (Brown, Cai and DasGupta 2001);
    pairs keep their correlation. Strata weigh the same, and the differences between them count
    as spread, so that the draws are rather too wide than too narrow. Strata of unequal size count
    as their `effective_number`.

    Args:
        strata: arrays [n_i, m] of 0 and 1 (or of booleans), n_i >= 1.
        generator: of numpy.
        num_resamples: number of draws.
    """
    num_trials = strata[0].shape[1]
    outcomes = (np.arange(2**num_trials)[:, None] >> np.arange(num_trials)) & 1  # [cell, m]
    shares = [
        np.bincount(stratum.astype(int) @ 2 ** np.arange(num_trials), minlength=2**num_trials) / len(stratum)
        for stratum in strata
    ]
    n = effective_number([len(stratum) for stratum in strata])
    drawn = generator.dirichlet(n * np.mean(shares, axis=0) + 0.5**num_trials, size=num_resamples)
    return np.asarray(drawn @ outcomes)


def effective_number(counts: Sequence[int]) -> float:
    """Return the n for which the mean of k proportions p over n_i trials has variance p (1 - p) / n.

    n = k^2 / sum_i (1 / n_i): the total, if all n_i are equal.
    """
    return len(counts) ** 2 / sum(1 / n for n in counts)


def percentile_interval(draws: np.ndarray, value: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the middle `confidence` of the draws, widened to hold `value` itself.

    Skewed statistics of few values can lie outside of the middle of their draws.
    """
    _check_confidence(confidence)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return min(float(low), value), max(float(high), value)


def mean_interval(
    values: Sequence[float], lows: Sequence[float], highs: Sequence[float], independent: bool = True
) -> tuple[float, float]:
    """Return an interval of the mean of k estimates from the interval of each.

    Independent estimates: half widths sqrt(sum_i (value_i - low_i)^2) / k, likewise above
    (recovery of variances from limits, Zou and Donner 2008). Otherwise the mean of the half
    widths, which holds whatever the correlation.
    """
    center = np.asarray(values, dtype=np.float64)
    widths = np.stack([center - lows, highs - center])  # [side, k]
    norms = np.sqrt((widths**2).sum(axis=1)) if independent else widths.sum(axis=1)
    below, above = norms / center.size
    return float(center.mean() - below), float(center.mean() + above)


def _resampled_means(
    values: np.ndarray, generator: np.random.Generator, num_resamples: int, size: int | None = None
) -> np.ndarray:
    """Return means [num_resamples, ...] of `size` values [n, ...] drawn with replacement, in bounded memory."""
    size = size or len(values)
    rows = max(1, _RESAMPLED_VALUES_AT_ONCE // (size * values[0].size))
    means = np.empty((num_resamples, *values.shape[1:]))
    for start in range(0, num_resamples, rows):
        stop = min(start + rows, num_resamples)
        chosen = generator.integers(len(values), size=(stop - start, size))
        means[start:stop] = values[chosen].mean(axis=1)
    return means


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: found {confidence}; accepted: between 0 and 1")
