"""Intervals for proportions and means."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

_RESAMPLED_VALUES_AT_ONCE = 1 << 22


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), with p = successes / n.
    It stays inside [0, 1] and has a width also when nothing or everything succeeded.

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


def _resampled_means(values: np.ndarray, generator: np.random.Generator, num_resamples: int) -> np.ndarray:
    """Return the means [num_resamples] of samples with replacement, in bounded memory."""
    rows = max(1, _RESAMPLED_VALUES_AT_ONCE // values.size)
    means = np.empty(num_resamples)
    for start in range(0, num_resamples, rows):
        stop = min(start + rows, num_resamples)
        chosen = generator.integers(values.size, size=(stop - start, values.size))
        means[start:stop] = values[chosen].mean(axis=1)
    return means


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: found {confidence}; accepted: between 0 and 1")
