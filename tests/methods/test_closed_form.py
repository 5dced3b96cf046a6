"""Equation 7 against independent solutions: least squares per matrix, and a zero gradient at full size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realera.methods.common.closed_form import Gram, Solution, solve


def problem(width: int, rows: int, preserved: int, seed: int):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return draw(rows, width), draw(rows, width), draw(preserved, width), draw(2 * width, width)


def solution(e, anchor, p, lambda1: float, ridge: float, normalize: bool = False) -> Solution:
    erase, keep = Gram(e.shape[1]), Gram(e.shape[1])
    erase.add(e, anchor)
    keep.add(p)
    return solve([erase.scaled(1.0, normalize), keep.scaled(lambda1, normalize)], ridge)


def stacked_least_squares(weight, e, anchor, p, factors, ridge: float) -> torch.Tensor:
    """The same minimum by an ordinary least-squares solver on the stacked equations of one matrix."""
    roots = [factor**0.5 for factor in (*factors, ridge)]
    identity = torch.eye(weight.shape[1], dtype=torch.float64)
    left = torch.cat([root * rows for root, rows in zip(roots, (e, p, identity), strict=True)])
    right = torch.cat([root * rows @ weight.T for root, rows in zip(roots, (anchor, p, identity), strict=True)])
    return torch.linalg.lstsq(left, right, driver="gelsd").solution.T


@given(
    width=st.integers(2, 24),
    rows=st.integers(1, 40),
    preserved=st.integers(1, 40),
    lambda1=st.floats(0.01, 10),
    ridge=st.floats(1e-4, 1.0),
    normalize=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_equals_per_matrix_least_squares(width, rows, preserved, lambda1, ridge, normalize, seed):
    e, anchor, p, weight = problem(width, rows, preserved, seed)
    found = solution(e, anchor, p, lambda1, ridge, normalize)
    factors = (1 / rows, lambda1 / preserved) if normalize else (1.0, lambda1)
    expected = stacked_least_squares(weight, e, anchor, p, factors, found.ridge)
    error = (found.apply(weight) - expected).norm() / expected.norm()
    assert error < 1e-6


def test_gradient_is_zero_at_stable_diffusion_size():
    e, anchor, p, _ = problem(768, 700, 900, 3)
    weight = torch.randn(320, 768, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = solution(e, anchor, p, 0.1, 1e-3)
    new = found.apply(weight)
    residual_e, residual_p = new @ e.T - weight @ anchor.T, (new - weight) @ p.T
    gradient = residual_e @ e + 0.1 * residual_p @ p + found.ridge * (new - weight)
    scale = (weight @ anchor.T @ e).norm()
    assert gradient.norm() / scale < 1e-6


def test_the_ridge_is_in_mean_eigenvalues():
    e, anchor, p, _ = problem(8, 30, 20, 0)
    found = solution(e, anchor, p, 0.5, 0.25)
    trace = e.square().sum() + 0.5 * p.square().sum()
    assert found.ridge == pytest.approx(0.25 * float(trace) / 8)
    assert found.condition_number == pytest.approx(float(torch.linalg.cond(found.A)), rel=1e-6)


def test_nothing_to_erase_leaves_the_weights():
    _, _, p, weight = problem(16, 1, 50, 1)
    found = solution(p[:5], p[:5], p, 0.1, 1e-3)
    torch.testing.assert_close(found.apply(weight), weight)


def test_sums_add_up_in_any_portions():
    e, anchor, _, _ = problem(16, 9000, 1, 2)
    whole, parts = Gram(16), Gram(16)
    whole.add(e, anchor)
    for start in range(0, 9000, 777):
        parts.add(e[start : start + 777], anchor[start : start + 777])
    torch.testing.assert_close(parts.source, whole.source)
    torch.testing.assert_close(parts.cross, whole.cross)
    assert parts.num_rows == whole.num_rows == 9000


def test_more_ridge_changes_less():
    e, anchor, p, weight = problem(16, 20, 20, 5)
    changes = [float((solution(e, anchor, p, 0.1, ridge).apply(weight) - weight).norm()) for ridge in (1e-3, 0.1, 10)]
    assert changes[0] > changes[1] > changes[2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_bad_embeddings(bad):
    e, anchor, p, _ = problem(4, 3, 3, 0)
    with pytest.raises(ValueError, match="finite, not zero"):
        solution(e * bad, anchor, p * 0, 0.1, 1e-3)


def test_a_ridge_that_is_too_small_is_said():
    e = torch.ones(5, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"solver.ridge: found 1e-30.*larger"):
        solution(e, e, e, 0.1, 1e-30)
