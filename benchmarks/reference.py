"""The loop that the field publishes for equation 7, written from UCE's equation.

    W = (sum v* c^T + s sum v c^T + lambda W0) (sum c c^T + s sum c c^T + lambda I)^-1

for each matrix on its own: sums over concepts, one after the other, and an inverse. What the published
programs do on top for every matrix, such as encoding the text again and projecting it by all 32
matrices, is left out here: they are slower than this.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.sizes import MATRICES, WIDTH, tokens

RIDGE = 0.5
"""UCE's lambda."""

PRESERVE_SCALE = 0.1

Sums = tuple[torch.Tensor, torch.Tensor]
SumOf = Callable[[torch.Tensor, torch.Tensor], Sums]
"""(values [k, out], tokens [k, d]) -> sum v c^T [out, d], sum c c^T [d, d]."""


@dataclass(frozen=True)
class Problem:
    """Concepts of k tokens each.

    Attributes:
        erased: [n, k, d].
        anchors: what they become, [n, k, d].
        preserved: [m, k, d].
    """

    erased: torch.Tensor
    anchors: torch.Tensor
    preserved: torch.Tensor

    @classmethod
    def random(cls, num_erased: int, num_preserved: int, num_tokens: int, width: int = WIDTH) -> "Problem":
        """Return random concepts."""
        sizes = (num_erased, num_erased, num_preserved)
        return cls(*(tokens(size, num_tokens, seed=seed, width=width) for seed, size in enumerate(sizes)))

    def __len__(self) -> int:
        """Return the number of concepts, erased and preserved."""
        return len(self.erased) + len(self.preserved)

    @property
    def width(self) -> int:
        """Return d."""
        return self.erased.shape[2]

    def share(self, limit: int) -> "Problem":
        """Return at most `limit` of the concepts, of both kinds."""
        if len(self) <= limit:
            return self
        few = max(1, round(limit * len(self.erased) / len(self)))
        return Problem(self.erased[:few], self.anchors[:few], self.preserved[: max(1, limit - few)])


def outer_products(values_ko: torch.Tensor, tokens_kd: torch.Tensor) -> Sums:
    """Sum over tokens of outer products, each made on its own, as the published programs have it."""
    columns = tokens_kd[:, None, :]
    return (values_ko[:, :, None] @ columns).sum(0), (tokens_kd[:, :, None] @ columns).sum(0)


def matrix_product(values_ko: torch.Tensor, tokens_kd: torch.Tensor) -> Sums:
    """Return the same sums by one product a concept: kinder to the loop than what is published."""
    return values_ko.T @ tokens_kd, tokens_kd.T @ tokens_kd


def sums(weight: torch.Tensor, problem: Problem, sum_of: SumOf) -> Sums:
    """Return the two factors for one matrix [out, d], in the matrix's dtype."""
    left = RIDGE * weight
    right = RIDGE * torch.eye(weight.shape[1], dtype=weight.dtype)
    for own, anchor in zip(problem.erased.to(weight.dtype), problem.anchors.to(weight.dtype), strict=True):
        found = sum_of(anchor @ weight.T, own)
        left += found[0]
        right += found[1]
    for own in problem.preserved.to(weight.dtype):
        found = sum_of(own @ weight.T, own)
        left += PRESERVE_SCALE * found[0]
        right += PRESERVE_SCALE * found[1]
    return left, right


def edited(weight: torch.Tensor, problem: Problem, sum_of: SumOf = matrix_product) -> torch.Tensor:
    """Return the new matrix."""
    left, right = sums(weight, problem, sum_of)
    return left @ torch.inverse(right)


def loop_seconds(problem: Problem, sum_of: SumOf, limit: int) -> float:
    """Return the seconds of the loop over all 32 matrices, scaled from one of each size.

    At most `limit` concepts are summed; the sums' seconds are scaled by the number of concepts, what
    is done once for a matrix is not.
    """
    few, total = problem.share(limit), 0.0
    for rows, count in MATRICES.items():
        weight = torch.ones(rows, problem.width) / problem.width
        start = time.perf_counter()
        left, right = sums(weight, few, sum_of)
        middle = time.perf_counter()
        left @ torch.inverse(right)
        total += count * ((middle - start) * len(problem) / len(few) + time.perf_counter() - middle)
    return total
