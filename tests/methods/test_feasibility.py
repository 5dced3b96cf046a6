"""Thresholds that Algorithm 1 would never satisfy are refused before sampling, with the nearest that work."""

import time
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

from realera.methods.realera.mining import Thresholds, check_feasible, sample_beyond, sample_neighbors
from realera.settings.errors import MiningError
from tests.kit.mining_problems import counted_share, problems, refusal, seeded, tokens

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(problems())
def test_feasibility_agrees_with_proposals_counted(problem):
    """Count Algorithm 1's own proposals: what passes is accepted often enough, what is refused is not."""
    e, _, limits, counts = problem
    assume(limits.noise == "per_token")
    least = 1.0
    for kind, num in zip(("neighbor", "beyond"), counts, strict=True):
        shares = [counted_share(kind, token, limits) for token in e]
        least = min(least, *shares) if num else least
    if refusal(e, limits, *counts):
        assert least < 3e-3
    else:
        assert least > 1e-4


def sd_token():
    return tokens(768, [27.7])


@pytest.mark.parametrize(("first", "upper"), [(10, 0.9), (1, 0.99), (10, 0.7)])
def test_the_loops_that_never_end_are_refused_at_once(first, upper):
    limits, started = Thresholds(first, 0.5, 40, upper, 0.5, "absolute"), time.process_time()
    with pytest.raises(MiningError, match=rf"sampler.D1: found {first}, .*S1 = {upper} .*nearest feasible") as caught:
        check_feasible(sd_token(), limits, 10, 10)
    assert time.process_time() - started < 1
    assert {key for change in caught.value.suggestions for key in change} >= {"D1", "S1"}
    for change in caught.value.suggestions:
        changed = replace(limits, **change)
        check_feasible(sd_token(), changed, 10, 10)
        assert counted_share("neighbor", sd_token()[0], changed) > 1e-3


def test_the_nearest_values_are_near():
    """At |e| = 27.7 and S1 = .9 neighbors begin at 12.8 (field notes); D1 = 10 begins at cosine .944."""
    with pytest.raises(MiningError) as caught:
        check_feasible(sd_token(), Thresholds(10, 0.5, 40, 0.9, 0.5, "absolute"), 10, 10)
    nearest = {key: value for change in caught.value.suggestions for key, value in change.items()}
    assert 12.8 < nearest["D1"] < 13.3
    assert 0.943 < nearest["S1"] < 0.950


@pytest.mark.parametrize(
    ("limits", "key"),
    [
        (Thresholds(9, 0.5, 10, 1.0, 0.9, "absolute"), "D2"),  # cosine .9 lies at 12.8
        (Thresholds(20, 0.5, 40, 0.9, -0.8, "absolute"), "S2"),  # cosines end at -.707
        (Thresholds(20, 0.5, 19, 0.9, 0.5, "absolute"), "D2"),  # beyond lies outside D1
    ],
)
def test_a_beyond_loop_that_never_ends_is_refused(limits, key):
    with pytest.raises(MiningError, match=f"sampler.{key}: found .* beyond sample .*nearest feasible") as caught:
        check_feasible(sd_token(), limits, 10, 10)
    for change in caught.value.suggestions:
        check_feasible(sd_token(), replace(limits, **change), 10, 10)
    check_feasible(sd_token(), limits, 10, 0)


def test_neighbors_count_only_if_there_are_any():
    check_feasible(sd_token(), Thresholds(10, 0.5, 40, 0.9, 0.5, "absolute"), 0, 10)


def test_the_feasible_start_is_accepted_as_often_as_computed():
    limits, e = Thresholds(20, 10, 40, 0.95, 0.7, "absolute"), sd_token()
    check_feasible(e, limits, 10, 10)
    assert sample_neighbors(e, torch.tensor([0]), 50, limits, seeded(0)).acceptance == pytest.approx(0.51, abs=0.02)
    assert sample_beyond(e, torch.tensor([0]), 50, limits, seeded(0)).acceptance == pytest.approx(1.0, abs=0.01)


def test_an_outlying_norm_is_found():
    """In absolute units a token of norm 100 has no neighbor of cosine .95 within 20."""
    with pytest.raises(MiningError, match=r"norm 27\.7 to 100") as caught:
        check_feasible(tokens(768, [27.7] * 30 + [100]), Thresholds(20, 1, 40, 0.95, -0.5, "absolute"), 1, 0)
    assert caught.value.suggestions


def test_shared_noise_needs_radii_that_every_token_accepts():
    """Token by token there are neighbors; at one absolute radius for norms 10 and 40 there are none."""
    limits = Thresholds(25, 1, 60, 0.9, 0.8, "absolute")
    e, prompts = tokens(768, [10, 40]), torch.tensor([3, 3])
    check_feasible(e, limits, 1, 0, prompts)
    with pytest.raises(MiningError, match="neighbor") as caught:
        check_feasible(e, replace(limits, noise="shared"), 1, 0, prompts)
    for change in caught.value.suggestions:
        check_feasible(e, replace(limits, noise="shared", **change), 1, 0, prompts)
