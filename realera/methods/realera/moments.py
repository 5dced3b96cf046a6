"""What Algorithm 1's samples sum up to when there are infinitely many: three numbers a token and kind.

A perturbation is eta = r u, and by symmetry around e its direction u enters the sums through its angle theta to e
alone. With m1 = E[r cos theta], m2 = E[r^2 cos^2 theta] and m3 = E[r^2 sin^2 theta] / (d - 1), over the samples that
are accepted, and the unit vector a = e / |e|:

    E[(e + eta)(e + eta)^T] = (|e|^2 + 2 m1 |e| + m2 - m3) a a^T + m3 I

The anchor's tolerance r' u has the same direction and a radius of its own, with mean D1' / 2:

    E[(e* + r' u)(e + eta)^T] = (1 + m1 / |e|) e* e^T + E[r'] (E[cos theta] |e| + c2 - c3) a a^T + E[r'] c3 I
    c2 = E[r cos^2 theta],  c3 = E[r sin^2 theta] / (d - 1)

Given theta the accepted radii are an interval (see `realera.methods.realera.geometry`), over which powers of r are
integrated exactly; what is left is one integral over theta. Its density, of v - e with v ~ N(0, I), is

    p(theta) ~ sin^(d-2) theta J(|e| cos theta),   J(b) = int_0^inf rho^(d-1) exp(-rho^2 / 2 - b rho) d rho

and sin^(d-2) theta for the direction "isotropic". Both integrals are Gauss-Legendre sums between the points where an
end of the interval meets a limit: between them everything is smooth.

Shapes: R rows (perturbed tokens), d width; L different lengths |e|, n nodes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial

import numpy as np
import torch
from numpy.polynomial.chebyshev import chebvander
from numpy.polynomial.legendre import leggauss

from realera.methods.realera.geometry import Angles, Kind, Thresholds, checked, span
from realera.settings.errors import MiningError

PANEL_NODES = 20
PANELS = 8  # of equal width over the support, beside the points where an end of the interval meets a limit
RADIAL_NODES = 48
SUPPORT_GRID = 1024
NEGLIGIBLE = 50.0  # of a log density below its maximum: e^-50 of it
FIRST_DEGREE = 16  # of the polynomial in |e| that is tried first
LAST_DEGREE = 64
TOLERANCE = 1e-12  # of the polynomial, in parts of a moment's largest value
LAST_RADIAL_DEGREE = 256
PLACES_AT_ONCE = 64


@dataclass(frozen=True)
class Moments:
    """Expectations over a token's accepted samples, float64 [R]; lengths are absolute whatever the units.

    Attributes:
        acceptance: share of Algorithm 1's proposals that is accepted.
        along: m1 = E[r cos theta].
        along_squared: m2 = E[r^2 cos^2 theta].
        across_squared: m3 = E[r^2 sin^2 theta] / (d - 1), of each direction across e.
        direction: E[cos theta].
        radius_along: c2 = E[r cos^2 theta].
        radius_across: c3 = E[r sin^2 theta] / (d - 1).
        anchor_radius: E[r'] of the anchor's tolerance; 0 for beyond.
    """

    acceptance: torch.Tensor
    along: torch.Tensor
    along_squared: torch.Tensor
    across_squared: torch.Tensor
    direction: torch.Tensor
    radius_along: torch.Tensor
    radius_across: torch.Tensor
    anchor_radius: torch.Tensor

    def part(self, rows: slice | torch.Tensor) -> "Moments":
        """Return the moments of some of the tokens."""
        return Moments(*(getattr(self, name)[rows] for name in NAMES))

    def distance(self, width: int) -> torch.Tensor:
        """Return the root mean square of |eta|, [R]."""
        return (self.along_squared + (width - 1) * self.across_squared).sqrt()

    def typical_cosine(self, length_r: torch.Tensor, width: int) -> torch.Tensor:
        """Return the cosine of e with a perturbed e of mean projection on e and root mean square length, [R]."""
        square = length_r.square() + 2 * length_r * self.along + self.distance(width).square()
        return (length_r + self.along) / square.sqrt()

    @classmethod
    def joined(cls, parts: Sequence["Moments"]) -> "Moments":
        """Put the moments of some tokens, at least one part, after those of others."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in NAMES))

    def stacked(self) -> torch.Tensor:
        """Return all of them as [8, R], in the order of NAMES."""
        return torch.stack([getattr(self, name) for name in NAMES])


NAMES = tuple(field.name for field in fields(Moments))


def moments(kind: Kind, e_rd: torch.Tensor, limits: Thresholds) -> Moments:
    """Return the moments of neighbors or beyond samples around each token.

    They are functions of |e| alone: where more lengths are asked for than a polynomial needs nodes, they are read off
    a polynomial in |e| that meets them to 1e-12, or else each is integrated.

    Args:
        kind: neighbor or beyond.
        e_rd: embeddings of the perturbed tokens, [R, d].
        limits: see `Thresholds`; noise "per_token".

    Raises:
        MiningError: bad embeddings, noise "shared", or thresholds that nothing fulfils.
    """
    if limits.noise != "per_token":
        raise MiningError(
            "sampler.noise: found shared; accepted with an infinite number of samples: per_token. The tokens of a "
            "prompt would share one direction, and what all of them accept has no closed form"
        )
    e_rd = checked(e_rd)
    norm_r = e_rd.norm(dim=1)
    lengths, index_r = norm_r.unique(return_inverse=True)
    integrated = partial(_integrated, kind, width=e_rd.shape[1], limits=limits)
    values = _read_off(integrated, lengths, LAST_DEGREE)[:, index_r]
    scale = norm_r if limits.units == "relative" else torch.ones_like(norm_r)
    powers = torch.tensor([0, 1, 2, 2, 0, 1, 1])[:, None]
    tolerance = scale * (limits.D1_anchor / 2 if kind == "neighbor" else 0.0)
    return Moments(*[*(values * scale**powers), tolerance])


def _read_off(
    function: Callable[[torch.Tensor], torch.Tensor], places_n: torch.Tensor, last_degree: int
) -> torch.Tensor:
    """Return the values [m, n] of smooth functions at sorted places, by a polynomial where it meets them.

    Where the places are fewer than a polynomial's nodes, or no polynomial converges, all are asked for.
    """
    degree = FIRST_DEGREE
    while degree < min(len(places_n), last_degree + 1):
        low, high = float(places_n[0]), float(places_n[-1])
        nodes = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
        at_nodes = function(torch.from_numpy((high - low) / 2 * (nodes + 1) + low)).numpy()
        series = np.linalg.solve(chebvander(nodes, degree), at_nodes.T)
        rest = np.abs(series[-3:]).max(0) / np.abs(at_nodes).max(1).clip(min=1e-300)
        if (rest < TOLERANCE).all():
            return torch.from_numpy(chebvander((places_n.numpy() - low) * 2 / (high - low) - 1, degree) @ series).T
        degree *= 2
    return torch.cat([function(some) for some in places_n.split(PLACES_AT_ONCE)], 1)


def _integrated(kind: Kind, length_l: torch.Tensor, width: int, limits: Thresholds) -> torch.Tensor:
    """Return the moments [7, L] of tokens of some lengths, in units of length."""
    scale_l = length_l if limits.units == "relative" else torch.ones_like(length_l)
    paper = limits.direction == "paper"
    theta_ln, weight_ln = _nodes(kind, length_l, scale_l, width, limits)
    density_ln = weight_ln * _log_density(theta_ln, length_l, width, paper, exact=True).exp()
    cos, sin = theta_ln.cos(), theta_ln.sin()
    angles = Angles(cos[..., None], sin[..., None], length_l[:, None, None], scale_l[:, None, None])
    start, size = angles.interval(kind, limits)
    end = start.where(size > 0, 0.0) + size
    first = torch.where(size > 0, start, 0.0)
    zeroth = density_ln * size
    # of r over the interval: its length, and the means of r and r^2 there
    mean, square = (first + end) / 2, (first.square() + first * end + end.square()) / 3
    accepted = zeroth.sum(1)
    if not (accepted > 0).all():
        raise MiningError(f"sampler: no {kind} sample is accepted by the thresholds")
    across = sin.square() / (width - 1)
    wanted = (mean * cos, square * cos.square(), square * across, cos, mean * cos.square(), mean * across)
    share = accepted / (density_ln.sum(1) * span(kind, limits))
    return torch.stack([share, *((zeroth * each).sum(1) / accepted for each in wanted)])


def _nodes(
    kind: Kind, length_l: torch.Tensor, scale_l: torch.Tensor, width: int, limits: Thresholds
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Gauss-Legendre nodes theta and their weights [L, n] over where the density is not negligible."""
    low, high = _support(length_l, width, limits.direction == "paper")
    inner = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, PANELS + 1, dtype=torch.float64)
    edges = torch.cat([inner, *_kinks(kind, length_l / scale_l, limits)], 1)
    edges = edges.clamp(low[:, None], high[:, None]).sort(1).values
    nodes, weights = _legendre(PANEL_NODES)
    half = edges.diff(dim=1)[..., None] / 2
    theta = edges[:, :-1, None] + half * (1 + nodes)
    return theta.flatten(1), (half * weights).flatten(1)


def _kinks(kind: Kind, reach_l: torch.Tensor, limits: Thresholds) -> list[torch.Tensor]:
    """Return the angles [L, 1] at which an end of the interval of radii meets a limit.

    r(S) = |e| sin(phi) / sin(theta - phi) with phi = acos(S) equals a limit at two angles at most.

    Args:
        kind: neighbor or beyond.
        reach_l: |e| in units.
        limits: the thresholds.
    """
    met = [(limits.S1, limits.D1), (limits.S2, limits.D1)]
    if kind == "beyond":
        met = [(limits.S2, limits.D1), (limits.S2, limits.D2)]
    found = []
    for cosine, radius in met:
        phi = math.acos(max(-1.0, min(1.0, cosine)))
        turn = (reach_l * math.sin(phi) / radius).clamp(max=1).asin()
        found += [phi + turn, phi + math.pi - turn, torch.full_like(turn, phi)]
    return [each[:, None].clamp(0, math.pi) for each in found]


def _support(length_l: torch.Tensor, width: int, paper: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the angles [L] between which the density is not negligible."""
    grid = (torch.arange(SUPPORT_GRID, dtype=torch.float64) + 0.5) * (math.pi / SUPPORT_GRID)
    log = _log_density(grid.expand(len(length_l), -1), length_l, width, paper, exact=False)
    counts = log > log.max(1, keepdim=True).values - NEGLIGIBLE
    step = math.pi / SUPPORT_GRID
    last = SUPPORT_GRID - 1 - counts.flip(1).int().argmax(1)
    first = counts.int().argmax(1)
    return (grid[first] - step).clamp(min=0), (grid[last] + step).clamp(max=math.pi)


def _log_density(theta_ln: torch.Tensor, length_l: torch.Tensor, width: int, paper: bool, exact: bool) -> torch.Tensor:
    """Return the log density of theta [L, n], up to a constant of each row; not exact: J by Laplace's method."""
    log = (width - 2) * theta_ln.sin().clamp(min=1e-300).log()
    if paper:
        b = length_l[:, None] * theta_ln.cos()
        log = log + _laplace(b, width)
        if exact:
            # J depends on b alone, and what Laplace's method leaves of it hardly does.
            places, index = b.flatten().unique(return_inverse=True)
            log = log + _read_off(partial(_beside_laplace, width=width), places, LAST_RADIAL_DEGREE)[0][index].view_as(
                b
            )
    return log - log.max(1, keepdim=True).values


def _laplace(b: torch.Tensor, width: int) -> torch.Tensor:
    """Return log J(b) by its integrand's maximum and curvature there."""
    top, curvature = _top(b, width)
    return _log_integrand(top, b, width) - curvature.log() / 2


def _beside_laplace(b: torch.Tensor, width: int) -> torch.Tensor:
    """Return log J(b), to rounding, less what Laplace's method makes of it, [1, n]."""
    top, curvature = _top(b, width)
    highest = _log_integrand(top, b, width)
    reach = math.sqrt(2 * NEGLIGIBLE)  # the integrand's logarithm is concave, with a curvature of at least 1
    low = _crossing((top - reach).clamp(min=0), top, b, highest, width)
    high = _crossing(top + reach, top, b, highest, width)
    nodes, weights = _legendre(RADIAL_NODES)
    half = (high - low)[..., None] / 2
    rho = low[..., None] + half * (1 + nodes)
    relative = (_log_integrand(rho, b[..., None], width) - highest[..., None]).exp()
    return ((relative * half * weights).sum(-1).log() + curvature.log() / 2)[None]


def _top(b: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where J's integrand is largest, and the curvature of its logarithm there."""
    root = (b.square() + 4 * (width - 1)).sqrt()
    # The two forms are equal; each is the one without cancellation on its side.
    top = torch.where(b > 0, 2 * (width - 1) / (root + b), (root - b) / 2)
    return top, (width - 1) / top.square() + 1


def _log_integrand(rho: torch.Tensor, b: torch.Tensor, width: int) -> torch.Tensor:
    return (width - 1) * rho.clamp(min=1e-300).log() - rho.square() / 2 - b * rho


def _crossing(
    outer: torch.Tensor, inner: torch.Tensor, b: torch.Tensor, highest: torch.Tensor, width: int
) -> torch.Tensor:
    """Return where the integrand has become negligible, between `outer`, where it is, and `inner`, its maximum."""
    for _ in range(12):  # a range that is 1/4096 too wide costs nothing
        middle = (outer + inner) / 2
        is_small = _log_integrand(middle, b, width) < highest - NEGLIGIBLE
        outer, inner = torch.where(is_small, middle, outer), torch.where(is_small, inner, middle)
    return outer


@cache
def _legendre(num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Gauss-Legendre nodes and weights on [-1, 1], float64 [num]."""
    nodes, weights = leggauss(num)
    return torch.from_numpy(nodes), torch.from_numpy(weights)
