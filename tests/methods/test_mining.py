"""Neighbor and beyond samples: the law of Algorithm 1, its inequalities, and what is refused before sampling."""

import math
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from realera.methods.realera import mining
from realera.methods.realera.mining import Thresholds, check_feasible, sample_beyond, sample_neighbors
from realera.settings.errors import MiningError
from tests.kit.mining_problems import cosines, ks_probability, problems, refusal, seeded, tokens
from tests.kit.reference_mining import rejection_loop

SAMPLE = {"neighbor": sample_neighbors, "beyond": sample_beyond}
NUM = 2500
TOLERANCE = 1e-9  # of the recomputed cosine and relative distance; the samples themselves were checked in float64

# name: width, norms of the tokens (several share one v), thresholds
LAWS = {
    "paper, d 8": (8, [2.5], Thresholds(1.0, 0.3, 2.0, 0.95, 0.5)),
    "isotropic, d 8": (8, [2.5], Thresholds(1.0, 0.3, 3.0, 0.9, 0.6, direction="isotropic")),
    "paper, d 3, obtuse": (3, [1.5], Thresholds(3.0, 0.3, 6.0, -0.1, -0.8)),
    "isotropic, d 2": (2, [1.0], Thresholds(1.2, 0.3, 3.0, 0.99, 0.2, direction="isotropic")),
    "paper, d 128": (128, [11.0], Thresholds(0.8, 0.3, 1.5, 0.95, 0.7)),
    "isotropic, d 128, absolute": (128, [5.0], Thresholds(4.0, 1.0, 8.0, 0.98, 0.75, "absolute", "isotropic")),
    "S1 = 1, S2 far": (8, [2.0], Thresholds(0.5, 0.3, 3.0, 1.0, 0.1)),
    "shared, d 8": (8, [1.5, 2.5, 4.0], Thresholds(1.2, 0.3, 2.5, 0.97, 0.3, noise="shared")),
    "shared, d 2, absolute": (2, [1.0, 1.5, 1.2], Thresholds(2.0, 0.3, 4.0, 0.99, 0.0, "absolute", noise="shared")),
    "shared, d 128": (128, [9.0, 12.0], Thresholds(0.8, 0.3, 1.4, 0.97, 0.7, "relative", "isotropic", "shared")),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def assert_obeys(kind, e, samples, limits):
    """Recompute equations 3 and 4, or the beyond inequalities, in float64 from the float32 eta."""
    eta, e = samples.eta.double(), e.double()
    unit = e.norm(dim=1) if limits.units == "relative" else torch.ones(len(e), dtype=torch.float64)
    distance, cosine = eta.norm(dim=-1) / unit, cosines(e, e + eta)
    if kind == "neighbor":
        assert (distance <= limits.D1 * (1 + TOLERANCE)).all()
        assert (cosine <= limits.S1 + TOLERANCE).all()
        assert (cosine >= limits.S2 - TOLERANCE).all()
        assert (samples.anchor_radius <= limits.D1_anchor * unit * (1 + 1e-6)).all()
    else:
        assert (distance >= limits.D1 * (1 - TOLERANCE)).all()
        assert (distance <= limits.D2 * (1 + TOLERANCE)).all()
        assert (cosine < limits.S2 + TOLERANCE).all()
        assert not samples.anchor_radius.any()
    torch.testing.assert_close(samples.cosine, cosine.float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(samples.distance, (distance * unit).float())
    torch.testing.assert_close(samples.radius, samples.distance, rtol=1e-5, atol=0)


# --- the law


def draw(kind, name):
    width, norms, limits = LAWS[name]
    e = tokens(width, norms)
    samples = SAMPLE[kind](e, torch.zeros(len(e), dtype=torch.int32), NUM, limits, seeded(1))
    return e, limits, samples


@pytest.mark.parametrize("kind", ["neighbor", "beyond"])
@pytest.mark.parametrize("name", LAWS)
def test_the_law_is_that_of_the_rejection_loop(name, kind):
    e, limits, samples = draw(kind, name)
    radius, cosine, cos_theta, share = rejection_loop(kind, e, NUM, limits, seeded(2))
    assert_obeys(kind, e, samples, limits)
    for token in range(len(e)):
        drawn = samples.radius[:, token], samples.cosine[:, token], cosines(e[token], samples.eta[:, token])
        for what, ours, theirs in zip(("radius", "cosine", "theta"), drawn, (radius, cosine, cos_theta), strict=True):
            assert ks_probability(ours, theirs[:, token]) > 1e-4, (what, token)
    deviation = share * math.sqrt((1 - share) / NUM) + 0.005
    assert abs(samples.acceptance - share) < 4 * deviation


@pytest.mark.parametrize("name", ["paper, d 8", "isotropic, d 8", "shared, d 2, absolute"])
def test_the_law_is_seen_to_differ_when_v_is_not_weighted(name, monkeypatch):
    """The power of the test above: take every v whose interval is not empty, and it must fail."""
    monkeypatch.setattr(
        mining, "_longest", lambda kind, groups, limits: torch.full((len(groups.rows),), 1e-12).double()
    )
    e, limits, samples = draw("neighbor", name)
    _, _, cos_theta, _ = rejection_loop("neighbor", e, NUM, limits, seeded(2))
    assert ks_probability(cosines(e[0], samples.eta[:, 0]), cos_theta[:, 0]) < 1e-6


@pytest.mark.parametrize("kind", ["neighbor", "beyond"])
def test_directions_are_uniform_around_the_token(kind):
    """Across e no direction is preferred: the projections on each other axis are symmetric and alike."""
    e, _, samples = draw(kind, "paper, d 8")
    axes = torch.linalg.qr(torch.cat([e, torch.eye(8)[:7]]).T.double()).Q[:, 1:]
    across = samples.eta[:, 0].double() @ axes
    for axis in range(1, 7):
        assert ks_probability(across[:, axis], across[:, 0]) > 1e-4
        assert ks_probability(across[:, axis], -across[:, axis]) > 1e-4


def test_the_anchor_radius_is_uniform_and_independent():
    e, limits, samples = draw("neighbor", "paper, d 8")
    relative = samples.anchor_radius[:, 0] / e.norm()
    assert ks_probability(relative, torch.rand(NUM, generator=seeded(3)) * limits.D1_anchor) > 1e-4
    assert abs(float(torch.corrcoef(torch.stack([relative, samples.radius[:, 0]]))[0, 1])) < 0.08


# --- the inequalities, for any thresholds


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(problems())
def test_every_problem_is_sampled_right_or_refused_with_values_that_work(problem):
    e, prompts, limits, counts = problem
    started = time.process_time()
    error = refusal(e, limits, *counts, prompts)
    if error:
        assert time.process_time() - started < 1
        assert "sampler." in str(error)
        assert "\n" not in str(error)
        assert error.suggestions
        for change in error.suggestions:
            check_feasible(e, replace(problem[2], **change), *counts, prompts)
        limits = replace(limits, **error.suggestions[0])
    for kind, num in zip(SAMPLE, counts, strict=True):
        samples = SAMPLE[kind](e, prompts, num, limits, seeded(0))
        assert samples.eta.shape == (num, *e.shape)
        assert_obeys(kind, e, samples, limits)


# --- counts, generator, shared noise, bad embeddings


@pytest.mark.parametrize("noise", ["per_token", "shared"])
def test_the_generator_determines_the_samples(noise):
    limits = Thresholds(0.5, 0.1, 1.4, 0.99, 0.9, noise=noise)
    e, prompts = tokens(64, [8, 7, 9]), torch.tensor([4, 9, 4])
    first, again, other = (sample_neighbors(e, prompts, 20, limits, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.eta, again.eta)
    assert torch.equal(first.anchor_radius, again.anchor_radius)
    assert first.acceptance == again.acceptance
    assert not torch.equal(first.eta, other.eta)
    assert first.eta.dtype == first.radius.dtype == torch.float32
    assert len(first.eta.flatten(1).unique(dim=0)) == 20


@pytest.mark.parametrize("kind", ["neighbor", "beyond"])
def test_no_samples_are_empty_tensors(kind):
    samples = SAMPLE[kind](tokens(8, [1, 2]), torch.tensor([0, 0]), 0, Thresholds(0.5, 0.1, 1.4, 1, 0.9), seeded(0))
    assert samples.eta.shape == (0, 2, 8)
    assert (
        samples.radius.shape == samples.anchor_radius.shape == samples.cosine.shape == samples.distance.shape == (0, 2)
    )
    assert math.isnan(samples.acceptance)


@pytest.mark.parametrize("units", ["relative", "absolute"])
def test_shared_noise_is_one_v_and_one_radius_a_prompt(units):
    limits = Thresholds(2.0, 0.5, 4.0, 1.0, 0.2, units, noise="shared")
    e, prompts = tokens(16, [3, 5, 4, 4.5, 3.5]), torch.tensor([1, 0, 1, 1, 0])
    samples = sample_neighbors(e, prompts, 50, limits, seeded(0))
    unit = e.norm(dim=1) if units == "relative" else torch.ones(5)
    for rows in ([0, 2, 3], [1, 4]):
        for radius in (samples.radius, samples.anchor_radius):
            in_units = (radius / unit)[:, rows]
            torch.testing.assert_close(in_units, in_units[:, :1].expand_as(in_units))
        assert_meet_in_one_point(e[rows].double(), samples.eta[:, rows].double())
    assert not torch.allclose((samples.radius / unit)[:, 0], (samples.radius / unit)[:, 1])


def assert_meet_in_one_point(e, eta):
    """The lines e_t + s u_t of a sample all pass through its v."""
    u = torch.nn.functional.normalize(eta, dim=-1)
    away = torch.eye(e.shape[1]).double() - u[..., :, None] * u[..., None, :]
    v = torch.linalg.solve(away.sum(1), (away @ e[..., None]).sum(1))[..., 0]
    between = torch.nn.functional.normalize(v[:, None] - e, dim=-1)
    torch.testing.assert_close(between, u, rtol=0, atol=1e-4)


def test_per_token_noise_differs_from_token_to_token():
    samples = sample_neighbors(
        tokens(64, [8, 8]), torch.tensor([0, 0]), 500, Thresholds(0.5, 0.1, 1.4, 1, 0.8), seeded(0)
    )
    assert abs(float(torch.corrcoef(samples.radius.T)[0, 1])) < 0.2


def test_portions_change_no_law(monkeypatch):
    """Small portions of items: each row still gets its own samples, all of them right."""
    monkeypatch.setattr(mining, "ITEMS_AT_ONCE", 64)
    limits, e = Thresholds(1.0, 0.3, 2.0, 0.95, 0.5), tokens(8, [2.5, 1.0, 4.0])
    samples = sample_neighbors(e, torch.tensor([0, 0, 1]), 300, limits, seeded(0))
    assert_obeys("neighbor", e, samples, limits)
    expected = rejection_loop("neighbor", e[:1], 1000, limits, seeded(2))
    assert ks_probability(samples.radius[:, 0], expected[0][:, 0]) > 1e-4
    assert samples.radius.min() > 0


def test_the_size_of_stable_diffusion_is_drawn_in_seconds():
    e = tokens(768, [27.7] * 350)
    started = time.process_time()
    samples = sample_neighbors(e, torch.arange(350) // 70, 20, Thresholds(0.5, 0.1, 1.4, 0.99, 0.7), seeded(0))
    assert time.process_time() - started < 20
    assert samples.eta.shape == (20, 350, 768)


@pytest.mark.parametrize(("value", "found"), [(0.0, "0.0"), (math.nan, "nan"), (math.inf, "inf")])
def test_embeddings_without_a_direction_are_refused(value, found):
    e = tokens(8, [1, 2])
    e[1] = value
    limits = Thresholds(0.5, 0.1, 1.4, 1.0, 0.9)
    with pytest.raises(MiningError, match=f"found the norm {found} at row 1; accepted: finite and above 0"):
        check_feasible(e, limits, 1, 1)
    with pytest.raises(MiningError, match="row 1"):
        sample_neighbors(e, torch.tensor([0, 1]), 1, limits, seeded(0))


def test_embeddings_of_another_shape_are_refused():
    with pytest.raises(MiningError, match=r"found the shape \[8\]"):
        check_feasible(torch.ones(8), Thresholds(0.5, 0.1, 1.4, 1.0, 0.9), 1, 1)


def test_sampling_unchecked_infeasible_thresholds_ends_with_an_error():
    limits, started = Thresholds(1, 0.5, 40, 0.99, 0.5, "absolute"), time.process_time()
    with pytest.raises(MiningError, match=r"no neighbor sample accepted in .* D1 = 1"):
        sample_neighbors(tokens(768, [27.7] * 20), torch.zeros(20), 50, limits, seeded(0))
    assert time.process_time() - started < 5
