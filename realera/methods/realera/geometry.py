"""The geometry of equations 3 to 6: which radii along a random direction fit the thresholds.

Along a direction at angle theta to e the cosine cos(e, e + r u) falls from 1 at r = 0 to cos(theta), and equals
S at r(S) = |e| sin(phi) / sin(theta - phi), phi = acos(S); so the radii that fit form an interval.

theta depends on v ~ N(0, I) only through z, its coordinates in the span of the tokens that share it, and q, the
squared length of the rest (chi-square): proposals are cheap, and the rest is drawn only for what is accepted.

Shapes: R rows (perturbed tokens), d width; G groups of K tokens that share one v, k = min(K, d), n draws.
"""

import math
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from realera.settings.errors import MiningError

Kind = Literal["neighbor", "beyond"]
Changes = dict[str, float | str]

KINDS: tuple[Kind, Kind] = ("neighbor", "beyond")

LEAST_REST_OF_FLOAT32 = 16


@dataclass(frozen=True)
class Thresholds:
    """What equations 3 to 6 leave open; the same names as in the section `sampler` of params.yaml.

    D1, D1_anchor and D2 are lengths, or with units "relative" multiples of the target token's norm.
    """

    D1: float
    D1_anchor: float
    D2: float
    S1: float
    S2: float
    units: Literal["relative", "absolute"] = "relative"
    direction: Literal["paper", "isotropic"] = "paper"
    noise: Literal["per_token", "shared"] = "per_token"


class Groups:
    """Tokens that share one v: each its own group, or the tokens of a prompt.

    Attributes:
        rows: rows of e, [G, K]; shorter groups repeat their first row, which changes no intersection.
        e: embeddings [G, K, d].
        norm: their lengths, float64 [G, K].
        scale: the unit of length of each token, float64 [G, K].
        basis: orthonormal, spans the group's tokens, [G, d, k].
        along: coordinates of e / |e| in the basis, float64 [G, K, k].
        rest: d - k, how many coordinates of v don't matter to any angle.

    `e` and `basis` are float32, which halves the time of a sample, unless rest is so small that the
    direction of v outside the basis can cancel.
    """

    def __init__(self, e_rd: torch.Tensor, rows: torch.Tensor, units: str) -> None:
        self.rows = rows
        e = e_rd[rows]
        self.norm = e.norm(dim=-1)
        self.scale = self.norm if units == "relative" else torch.ones_like(self.norm)
        unit = e / self.norm[..., None]
        basis = torch.linalg.qr(unit.mT).Q
        self.along = unit @ basis
        self.rest = e_rd.shape[1] - basis.shape[2]
        dtype = torch.float32 if self.rest >= LEAST_REST_OF_FLOAT32 else torch.float64
        self.e, self.basis = e.to(dtype), basis.to(dtype)

    def propose(
        self, groups_n: torch.Tensor, num: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw z [n, num, k] and q [n, num], which determine every angle."""
        z = torch.randn(len(groups_n), num, self.basis.shape[2], dtype=torch.float64, generator=generator)
        # A chi-square of n degrees is 2 Gamma(n / 2); torch's Chi2 takes no generator.
        shape = torch.full(z.shape[:2], self.rest / 2, dtype=torch.float64)
        return z, 2 * torch._standard_gamma(shape, generator=generator) if self.rest else torch.zeros_like(shape)

    def angles(self, groups_n: torch.Tensor, z: torch.Tensor, q: torch.Tensor, direction: str) -> "Angles":
        """Return the angle between each token [n, num, K] and its direction u."""
        along = z @ self.along[groups_n].mT
        across = ((z.square().sum(-1) + q)[..., None] - along.square()).clamp(min=1e-30).sqrt()
        if direction == "paper":
            along = along - self.norm[groups_n][:, None]
        length = torch.hypot(along, across)
        return Angles(along / length, across / length, self.norm[groups_n][:, None], self.scale[groups_n][:, None])

    def perturbations(
        self,
        groups_n: torch.Tensor,
        z: torch.Tensor,
        q: torch.Tensor,
        radius: torch.Tensor,
        paper: bool,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Complete v from z [n, k] and q [n], and return radius [n, K] times the unit directions, float32 [n, K, d]."""
        basis, e = self.basis[groups_n], self.e[groups_n]
        rest = torch.randn(len(groups_n), basis.shape[1], generator=generator).to(basis.dtype)
        inside = torch.einsum("nd,ndk->nk", rest, basis)
        outside = (rest.norm(dim=1).square() - inside.square().sum(1)).double().clamp(min=1e-30).sqrt()
        factor = (q.sqrt() / outside if self.rest else torch.zeros_like(q)).to(rest.dtype)[:, None]
        # What of `rest` lies outside the basis, at length sqrt(q), and z inside it.
        v = factor * rest + torch.einsum("ndk,nk->nd", basis, z.to(rest.dtype) - factor * inside)
        away = v[:, None] - e if paper else v[:, None].expand_as(e)
        return ((radius / away.norm(dim=-1)).to(v.dtype)[..., None] * away).float()


@dataclass(frozen=True)
class Angles:
    """cos and sin of theta [n, num, K], with the tokens' norms and units [n, 1, K]."""

    cos: torch.Tensor
    sin: torch.Tensor
    norm: torch.Tensor
    scale: torch.Tensor

    def radius(self, cosine: float) -> torch.Tensor:
        """Return r(S), in units: where cos(e, e + r u) = S; inf where it stays above."""
        sin_phi = math.sqrt((1 - cosine) * (1 + cosine))
        sin_difference = (self.sin * cosine - self.cos * sin_phi).clamp(min=1e-300)
        return torch.where(self.cos < cosine, self.norm / self.scale * sin_phi / sin_difference, math.inf)

    def interval(self, kind: Kind, limits: Thresholds) -> tuple[torch.Tensor, torch.Tensor]:
        """Return start and length [n, num] of the radii, in units, that every token of the group accepts."""
        if kind == "neighbor":
            start = self.radius(limits.S1).amax(-1)
            end = self.radius(limits.S2).clamp(max=limits.D1).amin(-1)
        else:
            start = self.radius(limits.S2).clamp(min=limits.D1).amax(-1)
            end = torch.full_like(start, limits.D2)
        return start, (end - start).clamp(min=0)


def span(kind: Kind, limits: Thresholds) -> float:
    """Return the length of the range that Algorithm 1 draws the radius from."""
    return limits.D1 if kind == "neighbor" else limits.D2 - limits.D1


def checked(e_rd: torch.Tensor) -> torch.Tensor:
    """Return the embeddings as float64, or say which of them has no direction."""
    if e_rd.ndim != 2 or e_rd.shape[1] < 2 or not len(e_rd):
        raise MiningError(f"embeddings: found the shape {list(e_rd.shape)}; accepted: [tokens, width of 2 or more]")
    e_rd = e_rd.detach().cpu().double()
    norm = e_rd.norm(dim=1)
    bad = (~torch.isfinite(norm) | (norm == 0)).nonzero()
    if len(bad):
        row = int(bad[0])
        raise MiningError(f"embeddings: found the norm {float(norm[row])} at row {row}; accepted: finite and above 0")
    return e_rd


def group_rows(prompt_r: torch.Tensor, noise: str) -> torch.Tensor:
    """Return the rows of each group [G, K]; shorter groups repeat their first row."""
    if noise == "per_token":
        return torch.arange(len(prompt_r))[:, None]
    groups = [(prompt_r == prompt).nonzero()[:, 0] for prompt in prompt_r.unique()]
    longest = max(len(rows) for rows in groups)
    return torch.stack([torch.cat([rows, rows[:1].expand(longest - len(rows))]) for rows in groups])


def show(changes: Thresholds | Changes) -> str:
    """Return thresholds as text for a message: "D1 = 0.25, S1 = 1"."""
    values = asdict(changes) if isinstance(changes, Thresholds) else changes
    return ", ".join(
        f"{key} = {value:.6g}" if isinstance(value, float) else f"{key} = {value}" for key, value in values.items()
    )
