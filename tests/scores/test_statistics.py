import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realera.scores.statistics import bootstrap_interval, wilson_interval

counts = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_newcombe_1998(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(counts)
def test_wilson_solves_the_score_equation(count):
    successes, n = count
    p = successes / n
    for bound in wilson_interval(successes, n):
        assert 0 <= bound <= 1
        assert (p - bound) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / n, rel=1e-3, abs=1e-9)


@given(counts)
def test_wilson_contains_the_proportion_and_mirrors(count):
    successes, n = count
    low, high = wilson_interval(successes, n)
    assert low <= successes / n <= high
    mirrored = wilson_interval(n - successes, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)
    narrower = wilson_interval(successes, n, confidence=0.5)
    assert low <= narrower[0] <= narrower[1] <= high


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(successes, n):
    with pytest.raises(ValueError, match="accepted: 0 to n"):
        wilson_interval(successes, n)


def test_bootstrap_agrees_with_the_normal_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    half = 1.96 * values.std() / np.sqrt(values.size)
    low, high = bootstrap_interval(values, seed=1, num_resamples=4000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.integers(0, 2**32))
def test_bootstrap_stays_within_the_values_and_repeats(values, seed):
    low, high = bootstrap_interval(values, seed, num_resamples=50)
    assert min(values) - 1e-6 <= low <= high <= max(values) + 1e-6
    assert bootstrap_interval(values, seed, num_resamples=50) == (low, high)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0], [2.0]]])
def test_bootstrap_refuses_what_has_no_mean(values):
    with pytest.raises(ValueError, match="accepted: a list of finite numbers"):
        bootstrap_interval(values, seed=0)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson_interval(1, 2, confidence)
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_interval([1.0], 0, confidence=confidence)
