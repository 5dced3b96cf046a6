"""What the tests of mining share: tokens, thresholds of any kind, and how two samples are compared."""

import math

import torch
from hypothesis import strategies as st

from realera.methods.realera.mining import Thresholds, check_feasible
from realera.settings.errors import MiningError


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def tokens(width, norms, seed=7):
    e = torch.randn(len(norms), width, generator=seeded(seed))
    return e / e.norm(dim=1, keepdim=True) * torch.tensor(norms, dtype=torch.float32)[:, None]


def ks_probability(a, b):
    """Return the p-value of the two-sample Kolmogorov-Smirnov test (asymptotic series)."""
    a, b = a.double().sort().values, b.double().sort().values
    every = torch.cat([a, b])
    share = [torch.searchsorted(x, every, right=True) / len(x) for x in (a, b)]
    effective = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    x = (effective + 0.12 + 0.11 / effective) * float((share[0] - share[1]).abs().max())
    series = 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))
    return 1.0 if x < 0.2 else min(1.0, max(0.0, series))


def cosines(a, b):
    a, b = a.double(), b.double()
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


@st.composite
def problems(draw_value):
    width = draw_value(st.sampled_from([2, 3, 8, 40, 200]))
    norms = draw_value(st.lists(st.floats(0.05, 40), min_size=1, max_size=4))
    first = draw_value(st.floats(0.02, 3.0))
    s1 = draw_value(st.one_of(st.just(1.0), st.floats(-0.5, 0.9999)))
    limits = Thresholds(
        D1=first,
        D1_anchor=first * draw_value(st.floats(0, 1)),
        D2=first * draw_value(st.floats(1.05, 6)),
        S1=s1,
        S2=max(-1.0, s1 - draw_value(st.floats(0.001, 1.2))),
        units=draw_value(st.sampled_from(["relative", "relative", "absolute"])),
        direction=draw_value(st.sampled_from(["paper", "isotropic"])),
        noise=draw_value(st.sampled_from(["per_token", "shared"])),
    )
    e = tokens(width, norms, draw_value(st.integers(0, 99)))
    return e, torch.zeros(len(e), dtype=torch.int32), limits, draw_value(st.sampled_from([(3, 3), (3, 0), (0, 3)]))


def refusal(*arguments):
    try:
        check_feasible(*arguments)
    except MiningError as error:
        return error
    return None


def counted_share(kind, token, limits, proposals=5_000):
    e = token.double()
    v = torch.randn(proposals, len(e), generator=seeded(5), dtype=torch.float64)
    away = v - e if limits.direction == "paper" else v
    low, high = (0, limits.D1) if kind == "neighbor" else (limits.D1, limits.D2)
    radius = low + (high - low) * torch.rand(proposals, 1, generator=seeded(6), dtype=torch.float64)
    unit = e.norm() if limits.units == "relative" else 1
    cosine = cosines(e, e + unit * radius * away / away.norm(dim=1, keepdim=True))
    right = (cosine >= limits.S2) & (cosine <= limits.S1) if kind == "neighbor" else cosine < limits.S2
    return float(right.double().mean())
