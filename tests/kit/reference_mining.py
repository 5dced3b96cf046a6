"""Algorithm 1, lines 4 to 22, as it is printed: one proposal after the other (reference for the tests only).

Two readings are those of the design: the stray `break` of line 21 is dropped, and the beyond radius is l.
"""

import torch


def rejection_loop(kind, tokens_kd, num, thresholds, generator):
    """Return radius, cosine and cos(theta), each [num, K], and the share of accepted proposals.

    The K tokens share v and the radius in units; one token alone is the noise "per_token".
    """
    e = tokens_kd.double()
    norm = e.norm(dim=1)
    unit = norm if thresholds.units == "relative" else torch.ones_like(norm)
    low, high = (0.0, thresholds.D1) if kind == "neighbor" else (thresholds.D1, thresholds.D2)
    found, proposals = [], 0
    while len(found) < num:
        proposals += 1
        v = torch.randn(e.shape[1], dtype=torch.float64, generator=generator)
        r = unit * (low + (high - low) * torch.rand(1, dtype=torch.float64, generator=generator))
        away = v - e if thresholds.direction == "paper" else v.expand_as(e)
        v_hat = away / away.norm(dim=1, keepdim=True)
        eta = r[:, None] * v_hat
        cosine = _cosine(e, e + eta)
        accepted = cosine < thresholds.S2
        if kind == "neighbor":
            accepted = (cosine >= thresholds.S2) & (cosine <= thresholds.S1)
        if bool(accepted.all()):
            found.append(torch.stack([r, cosine, _cosine(e, v_hat)]))
    radius, cosine, cos_theta = torch.stack(found, 1)
    return radius, cosine, cos_theta, num / proposals


def _cosine(a, b):
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
