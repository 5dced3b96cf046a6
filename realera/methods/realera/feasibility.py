"""Whether Algorithm 1 would ever end, decided before any sampling, and the nearest thresholds with which it does."""

import math
from dataclasses import replace

import torch

from realera.methods.realera.geometry import (
    KINDS,
    Angles,
    Changes,
    Groups,
    Kind,
    Thresholds,
    checked,
    group_rows,
    show,
    span,
)
from realera.settings.errors import MiningError

MIN_ACCEPTANCE = 1e-3
GOOD_ACCEPTANCE = 1e-2  # of what is suggested: not on the edge
CHECKED_GROUPS = 9
CHECKED_DRAWS = 2**15
FEW_DRAWS = 256  # to tell what is hopeless in a tenth of the time
# Feasible for any norm, width and direction: r(S2) / |e| lies between .31 and 1 wherever theta concentrates.
SAFE: Changes = {"D1": 0.25, "D1_anchor": 0.1, "D2": 1.4, "S1": 1.0, "S2": 0.95, "units": "relative"}


def check_feasible(
    e_rd: torch.Tensor,
    thresholds: Thresholds,
    num_neighbors: int,
    num_beyond: int,
    prompt_r: torch.Tensor | None = None,
) -> None:
    """Decide before any sampling whether Algorithm 1 would come to an end.

    The share of its proposals that would be accepted is E[w(v)] over the range of radii; it is evaluated with
    fixed draws of the angle for up to nine norms from the smallest over the median to the largest.

    Args:
        e_rd: embeddings of the perturbed tokens, [R, d].
        thresholds: see `Thresholds`.
        num_neighbors: M; with 0 the neighbors' conditions don't count.
        num_beyond: N; likewise.
        prompt_r: the prompt of each row, [R]; needed only for noise "shared", which asks more: all tokens at once.

    Raises:
        MiningError: bad embeddings, or a share below 1e-3 for any; with the nearest feasible values.
    """
    shared = thresholds.noise == "shared" and prompt_r is not None
    prompts = torch.arange(len(e_rd)) if prompt_r is None else prompt_r
    rows = group_rows(prompts, "shared" if shared else "per_token")
    check = _Check(checked(e_rd), rows, thresholds, num_neighbors, num_beyond)
    for kind in check.kinds:
        share = check.share(kind, thresholds)
        if share < MIN_ACCEPTANCE:
            raise _infeasible(kind, share, check, thresholds)


class _Check:
    """Draws of the angle, the same for every set of thresholds that is tried."""

    def __init__(
        self, e_rd: torch.Tensor, rows: torch.Tensor, limits: Thresholds, num_neighbors: int, num_beyond: int
    ) -> None:
        self.kinds: list[Kind] = [kind for kind, num in zip(KINDS, (num_neighbors, num_beyond), strict=True) if num]
        order = e_rd.norm(dim=1)[rows].mean(1).argsort()
        ranks = torch.linspace(0, len(order) - 1, min(len(order), CHECKED_GROUPS)).round().long()
        self._e, self._rows = e_rd, rows[order[ranks]]
        self._angles: dict[tuple[str, str], Angles] = {}
        self._low = {kind for kind in self.kinds if self.share(kind, limits) < MIN_ACCEPTANCE}

    def angles(self, limits: Thresholds) -> Angles:
        """Return the drawn angles [G, n, K]; they depend on no threshold."""
        key = (limits.units, limits.direction)
        if key not in self._angles:
            groups = Groups(self._e, self._rows, limits.units)
            generator, every = torch.Generator().manual_seed(0), torch.arange(len(self._rows))
            draws = groups.propose(every, max(32, CHECKED_DRAWS // self._rows.numel()), generator)
            self._angles[key] = groups.angles(every, *draws, limits.direction)
        return self._angles[key]

    def share(self, kind: Kind, limits: Thresholds, draws: int | None = None) -> float:
        """Return the lowest share of accepted proposals over the groups, from the first draws only if told so."""
        if span(kind, limits) <= 0:
            return 0.0
        angles = self.angles(limits)
        angles = replace(angles, cos=angles.cos[:, :draws], sin=angles.sin[:, :draws])
        return float(angles.interval(kind, limits)[1].mean(1).min()) / span(kind, limits)

    def good(self, limits: Thresholds) -> bool:
        """Say whether thresholds agree with each other, mend what was infeasible and leave the rest feasible."""
        if limits.D1_anchor > limits.D1 or not -1 <= limits.S2 < limits.S1 <= 1:
            return False
        needed = {kind: GOOD_ACCEPTANCE if kind in self._low else MIN_ACCEPTANCE for kind in self.kinds}
        likely = all(self.share(kind, limits, FEW_DRAWS) >= least / 2 for kind, least in needed.items())
        return likely and all(self.share(kind, limits) >= least for kind, least in needed.items())


def _infeasible(kind: Kind, share: float, check: _Check, limits: Thresholds) -> MiningError:
    """Say which threshold is out of reach, where the samples lie, and the nearest feasible values."""
    angles, unit = check.angles(limits), " norms" if limits.units == "relative" else ""
    first, last = (float(angles.radius(cosine).median()) for cosine in (limits.S1, limits.S2))
    norms = f"{float(angles.norm.min()):.3g} to {float(angles.norm.max()):.3g}"
    if kind == "neighbor":
        key, nearest = ("S1", first) if math.isinf(first) else ("D1", first)
        what = f"a neighbor with S2 = {limits.S2:.6g} <= cosine <= S1 = {limits.S1:.6g}"
        where = f"lies at radii from {first:.3g} to {last:.3g}{unit}"
    else:
        key, nearest = ("S2", last) if math.isinf(last) else ("D2", last)
        what = f"a beyond sample with cosine < S2 = {limits.S2:.6g}"
        where = f"lies at radii from {max(last, limits.D1):.3g}{unit}"
    if math.isinf(nearest):
        where = f"lies at no radius, as cosines end at {float(angles.cos.median()):.3g}"
    changes = _suggestions(check, limits)
    if limits.noise == "shared":
        where += ", which all of a prompt's tokens must share"
    feasible = "; or ".join(show(change) for change in changes)
    return MiningError(
        f"sampler.{key}: found {getattr(limits, key):.6g}, but {what} {where} (median; tokens of norm {norms}): a "
        f"share of {share:.2g} of the proposals would be accepted, below {MIN_ACCEPTANCE:g}; "
        f"nearest feasible: {feasible}",
        changes,
    )


def _suggestions(check: _Check, limits: Thresholds) -> tuple[Changes, ...]:
    """Return the nearest feasible change of each threshold alone, or of a pair, or a set that is always feasible."""
    for keys in ([("D1",), ("D2",), ("S1",), ("S2",)], [("D1", "D2"), ("S1", "S2"), ("D2", "S2"), ("D1", "S2")]):
        changes = [change for key in keys if (change := _nearest(check, limits, key))]
        if changes:
            return tuple(changes)
    return (SAFE,)


def _nearest(check: _Check, limits: Thresholds, keys: tuple[str, ...]) -> Changes:
    """Scale D's, or 1 - S's, by the factor nearest to 1 that makes the thresholds feasible; {} if none does."""
    for step in range(1, 61):
        for sign in (1, -1):
            outer = sign * 0.15 * step
            if check.good(_apply(limits, _scaled(limits, keys, outer))):
                return _refined(check, limits, keys, outer, outer - sign * 0.15)
    return {}


def _refined(check: _Check, limits: Thresholds, keys: tuple[str, ...], outer: float, inner: float) -> Changes:
    """Bisect between a feasible and an infeasible factor; what is returned is checked as it is printed."""
    for _ in range(6):
        middle = (outer + inner) / 2
        if check.good(_apply(limits, _scaled(limits, keys, middle))):
            outer = middle
        else:
            inner = middle
    return _scaled(limits, keys, outer)


def _scaled(limits: Thresholds, keys: tuple[str, ...], exponent: float) -> Changes:
    """Scale the values of the keys, and round as the message will print them."""
    changes: Changes = {}
    for key in keys:
        value, factor = float(getattr(limits, key)), math.exp(exponent)
        size = float(f"{(value if key[0] == 'D' else 1 - value) * factor:.3g}")
        changes[key] = size if key[0] == "D" else max(-1.0, round(1 - size, 12))
    return changes


def _apply(limits: Thresholds, changes: Changes) -> Thresholds:
    """Return the thresholds with some of them changed."""
    return replace(limits, **changes)  # type: ignore[arg-type]
