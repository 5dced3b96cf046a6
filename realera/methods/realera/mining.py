"""Neighbor and beyond samples around a concept's token embeddings (equations 3 to 6, Algorithm 1).

Algorithm 1 draws v ~ N(0, I) and a uniform radius r, and keeps e + r u, u = (v - e) / |v - e|, if its cosine
with e fits. The radii that fit form an interval of length w(v), see `realera.methods.realera.geometry`. Rejection
keeps v in proportion to w(v), and then r uniform in the interval: drawing v with that weight and r from the interval
is the same law without the long wait.

Shapes: R rows (perturbed tokens), d width; G groups of K tokens that share one v, n samples of a group.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from realera.methods.realera.feasibility import check_feasible
from realera.methods.realera.geometry import Groups, Kind, Thresholds, checked, group_rows, show, span
from realera.settings.errors import MiningError

__all__ = ["Samples", "Thresholds", "check_feasible", "sample_beyond", "sample_neighbors"]

ITEMS_AT_ONCE = 2**22  # numbers in one float32 [n, K, d], 16 MiB
ITEMS_IN_CACHE = 2**18  # numbers that are completed and measured at once: several such arrays fit a processor's cache
PROPOSALS_AT_ONCE = 2**13
BARREN_PROPOSALS = 50_000  # at an acceptance of 1e-3 so long a run has probability e^-50


@dataclass(frozen=True)
class Samples:
    """Accepted perturbations, float32; the radii are absolute lengths whatever the units.

    Attributes:
        eta: perturbations r u, [num, R, d]; the anchor's is eta * anchor_radius / radius (radius > 0).
        radius: r, [num, R].
        anchor_radius: r' ~ U[0, D1_anchor), in relative units times the *target* token's norm; 0 for beyond, [num, R].
        cosine: cos(e, e + eta), [num, R].
        distance: |eta|, [num, R].
        acceptance: share of Algorithm 1's proposals that would be accepted (estimate); nan without samples.
    """

    eta: torch.Tensor
    radius: torch.Tensor
    anchor_radius: torch.Tensor
    cosine: torch.Tensor
    distance: torch.Tensor
    acceptance: float


def sample_neighbors(
    e_rd: torch.Tensor, prompt_r: torch.Tensor, num: int, thresholds: Thresholds, generator: torch.Generator
) -> Samples:
    """Draw perturbations with S2 <= cos(e, e + eta) <= S1 and |eta| <= D1 (equations 3 and 4).

    Args:
        e_rd: embeddings of the perturbed tokens, [R, d].
        prompt_r: the prompt of each row, [R]; with noise "shared" its rows get one v and one radius a sample.
        num: samples a row; 0 gives empty tensors.
        thresholds: see `Thresholds`.
        generator: of the CPU; the same state gives the same samples.

    Raises:
        MiningError: bad embeddings, or (nearly) nothing can be accepted; see `check_feasible`.
    """
    return _sample("neighbor", e_rd, prompt_r, num, thresholds, generator)


def sample_beyond(
    e_rd: torch.Tensor, prompt_r: torch.Tensor, num: int, thresholds: Thresholds, generator: torch.Generator
) -> Samples:
    """Draw perturbations with D1 <= |eta| < D2 and cos(e, e + eta) < S2; otherwise as `sample_neighbors`."""
    return _sample("beyond", e_rd, prompt_r, num, thresholds, generator)


def _sample(
    kind: Kind, e_rd: torch.Tensor, prompt_r: torch.Tensor, num: int, limits: Thresholds, generator: torch.Generator
) -> Samples:
    return _joined(list(blocks(kind, e_rd, prompt_r, num, limits, generator)))


def blocks(
    kind: Kind, e_rd: torch.Tensor, prompt_r: torch.Tensor, num: int, limits: Thresholds, generator: torch.Generator
) -> Iterator[Samples]:
    """Draw as `sample_neighbors` and `sample_beyond` do, a block of samples after the other.

    A block is one sample of all rows, or as many as ITEMS_AT_ONCE numbers hold; memory doesn't grow with `num`.
    For `num` = 0 there is one block, of empty tensors.
    """
    e_rd = checked(e_rd)
    groups = Groups(e_rd, group_rows(prompt_r, limits.noise), limits.units)
    num_groups, num_tokens = groups.rows.shape
    at_once = max(1, ITEMS_AT_ONCE // (num_tokens * e_rd.shape[1]))
    for samples in torch.arange(num).split(max(1, at_once // num_groups)):
        eta, scalars, share = torch.empty(len(samples), *e_rd.shape), torch.empty(4, len(samples), len(e_rd)), 0.0
        for items in torch.arange(len(samples) * num_groups).split(at_once):
            # Item i is sample i // G of group i % G.
            group = items % num_groups
            for done, found_eta, found, part in _accepted(kind, groups, group, limits, generator):
                sample, rows = (items[done] // num_groups)[:, None], groups.rows[group[done]]
                # A short group repeats its first row, which is then written again with the same values.
                eta[sample, rows], scalars[:, sample, rows] = found_eta, found.float()
                share += part
        share = share / (len(samples) * num_groups) if num else math.nan
        radius, anchor_radius, cosine, distance = scalars
        yield Samples(eta, radius, anchor_radius, cosine, distance, share)


def _joined(parts: Sequence[Samples]) -> Samples:
    """Put blocks, at least one, one after the other."""
    if len(parts) == 1:
        return parts[0]
    names = ("eta", "radius", "anchor_radius", "cosine", "distance")
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    total = sum(part.acceptance * len(part.radius) for part in parts)
    return Samples(**columns, acceptance=total / len(columns["radius"]))


def _accepted(
    kind: Kind, groups: Groups, group_n: torch.Tensor, limits: Thresholds, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]]:
    """Yield portions until each item has its sample: positions, eta, [radius, r', cosine, distance], sum of shares."""
    most_n = _longest(kind, groups, limits)[group_n]
    pending, barren, first = torch.arange(len(group_n)), 0, True
    while len(pending):
        group = group_n[pending]
        # The fewer items wait, the more proposals each gets: a round costs the same, and the unlucky ones end soon.
        per_item = max(1, PROPOSALS_AT_ONCE // len(pending))
        z, q = groups.propose(group, per_item, generator)
        start, length = groups.angles(group, z, q, limits.direction).interval(kind, limits)
        chance = torch.rand(2, *length.shape, dtype=torch.float64, generator=generator)
        # v is kept with probability w(v) / bound, so in proportion to w(v), however loose the bound. A bound below 0
        # would keep every v, also one with no radius that fits.
        accept = (chance[0] * most_n[pending, None] < length) & (length > 0)
        item = accept.any(1).nonzero()[:, 0]
        # argmax is the first that was kept: the proposals after it count as never made.
        pick = accept[item].int().argmax(1)
        radius = (start + chance[1] * length)[item, pick]
        # Only the first round asks for every item. Later ones see those that were refused, often of groups that accept
        # little, and would pull the estimate down.
        share = float(length.mean(1).sum()) / span(kind, limits) if first else 0.0
        remains = torch.ones(len(pending), dtype=torch.bool)
        for part in torch.arange(len(item)).split(max(1, ITEMS_IN_CACHE // groups.e[0].numel())):
            own, chosen = item[part], pick[part]
            drawn = z[own, chosen], q[own, chosen], radius[part]
            right, eta, scalars = _complete(kind, groups, group[own], drawn, limits, generator)
            remains[own[right]] = False
            yield pending[own[right]], eta, scalars, share
            # Of the whole round, so that it is given with its first portion alone.
            share = 0.0
        barren = 0 if not remains.all() else barren + len(pending) * per_item
        if barren > BARREN_PROPOSALS:
            raise MiningError(f"sampler: no {kind} sample accepted in {barren} proposals with {show(limits)}")
        pending, first = pending[remains], False


def _complete(
    kind: Kind,
    groups: Groups,
    group_n: torch.Tensor,
    drawn: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    limits: Thresholds,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make samples of accepted z, q and radius in units; return which are right, and of those eta and the scalars."""
    z, q, radius_n = drawn
    scale = groups.scale[group_n]
    radius = radius_n[:, None] * scale
    eta = groups.perturbations(group_n, z, q, radius, limits.direction == "paper", generator)
    cosine, distance = _measure(groups, group_n, eta)
    right = _obeys(kind, cosine, distance, scale, limits)
    tolerance = torch.rand(len(scale), 1, dtype=torch.float64, generator=generator) * scale
    anchor = tolerance * limits.D1_anchor if kind == "neighbor" else torch.zeros_like(radius)
    scalars = torch.stack([radius, anchor, cosine, distance])
    return (right, eta, scalars) if right.all() else (right, eta[right], scalars[:, right])


def _longest(kind: Kind, groups: Groups, limits: Thresholds) -> torch.Tensor:
    """Return an upper bound [G] of w(v), from sin(theta - phi) <= 1, or sin(phi) where phi > pi / 2."""
    cosine = limits.S1 if kind == "neighbor" else limits.S2
    nearest = math.sqrt((1 - cosine) * (1 + cosine)) if cosine > 0 else 1.0
    start = (nearest * groups.norm / groups.scale).amax(1)
    return limits.D1 - start if kind == "neighbor" else limits.D2 - start.clamp(min=limits.D1)


def _measure(groups: Groups, group_n: torch.Tensor, eta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos(e, e + eta) and |eta| in float64 of the float32 eta [n, K, d]."""
    e, norm, eta = groups.e[group_n].double(), groups.norm[group_n], eta.double()
    along, squared = (torch.einsum("nkd,nkd->nk", other, eta) for other in (e, eta))
    moved = norm.square() + 2 * along + squared
    return ((norm.square() + along) / (norm * moved.sqrt())).clamp(-1, 1), squared.sqrt()


def _obeys(
    kind: Kind, cosine: torch.Tensor, distance: torch.Tensor, scale: torch.Tensor, limits: Thresholds
) -> torch.Tensor:
    """Check the samples [n, K] as they are: rounding moves about one in 10^7 over an edge; it is drawn again."""
    if kind == "neighbor":
        right = (cosine >= limits.S2) & (cosine <= limits.S1) & (distance <= limits.D1 * scale) & (distance > 0)
    else:
        right = (cosine < limits.S2) & (distance >= limits.D1 * scale) & (distance < limits.D2 * scale)
    return right.all(-1)
