"""Equation 7 in closed form, for all K and V matrices at once.

    min_W  sum_E |W e - W0 e*|^2 + lambda1 sum_P |W p - W0 p|^2 + ridge |W - W0|^2

With the Gram sums  A = sum e e^T + lambda1 sum p p^T + ridge I
               and  B = sum e* e^T + lambda1 sum p p^T + ridge I
the minimum is W = W0 (B A^-1): one factorization of [d, d], whatever the number of matrices.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from realera.settings.errors import ConfigError
from realera.text.prompt_table import PromptTable

ROWS_AT_ONCE = 4096


class Gram:
    """Sums over pairs (source, target) of row vectors; pairs can be streamed in any portions.

    Attributes:
        source: sum s s^T, float64 [d, d].
        cross: sum t s^T, float64 [d, d]; where every source stays what it is, the same tensor as `source`.
        num_rows: how many pairs were added.
    """

    def __init__(self, width: int, stays: bool = False) -> None:
        self.source = torch.zeros(width, width, dtype=torch.float64)
        self.cross = self.source if stays else torch.zeros_like(self.source)
        self.num_rows = 0

    @property
    def stays(self) -> bool:
        """Whether every source is its own target."""
        return self.cross is self.source

    def add(self, source_nd: torch.Tensor, target_nd: torch.Tensor | None = None) -> None:
        """Add pairs [n, d]; without a target each source is its own (it is preserved)."""
        if target_nd is not None and self.stays:
            raise ValueError("found targets for sources that stay")
        if target_nd is not None and target_nd.shape != source_nd.shape:
            raise ValueError(f"found {tuple(source_nd.shape)} sources and {tuple(target_nd.shape)} targets")
        for start in range(0, len(source_nd), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            source = source_nd[rows].double()
            own = source.T @ source
            self.source += own
            if not self.stays:
                self.cross += own if target_nd is None else target_nd[rows].double().T @ source
        self.num_rows += len(source_nd)

    def merge(self, other: "Gram", sign: float = 1.0) -> None:
        """Add another sum to this one, or with sign -1 take it away again."""
        self.source.add_(other.source, alpha=sign)
        if not self.stays:
            self.cross.add_(other.cross, alpha=sign)
        self.num_rows += int(sign) * other.num_rows

    def scaled(self, weight: float, normalize: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight * (source, cross), divided by the number of rows if asked."""
        factor = weight / max(1, self.num_rows) if normalize else weight
        return factor * self.source, factor * self.cross


@dataclass(frozen=True)
class Solution:
    """The linear map that turns every original weight W0 [out, d] into W0 @ map.

    Attributes:
        map: B A^-1, float64 [d, d].
        ridge: what was added to the diagonal, in the units of the Gram sums.
        condition_number: of A with its ridge.
        A: float64 [d, d].
        B: float64 [d, d].
    """

    map: torch.Tensor
    ridge: float
    condition_number: float
    A: torch.Tensor
    B: torch.Tensor

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the new weight [out, d], in the dtype of the old one."""
        return (weight.double() @ self.map).to(weight.dtype)


def solve(
    terms: Iterable[tuple[torch.Tensor, torch.Tensor]], ridge: float, key: str = "solver.ridge", relative: bool = True
) -> Solution:
    """Solve equation 7 with a ridge towards the original weights.

    Args:
        terms: weighted (sum s s^T, sum t s^T), from `Gram.scaled`, at least one.
        ridge: in mean eigenvalues of the Gram matrix, trace(A) / d, so that one value serves
            any number of rows and any width (field notes: the paper names no ridge, and
            without one unrelated outputs can change by 250% where rows are about d).
        key: of the parameter that sets the ridge, for the error.
        relative: False: the ridge is in the units of the sums, as other methods give it.

    Raises:
        ValueError: there is nothing to erase or preserve, the sums are not finite, or the
            ridge is too small to factorize them.
    """
    sources, crosses = zip(*terms, strict=True)
    A, B = torch.stack(sources).sum(0), torch.stack(crosses).sum(0)  # noqa: N806  the equation's names
    width = len(A)
    scale = float(A.trace()) / width
    if not (scale > 0 and torch.isfinite(A).all() and torch.isfinite(B).all()):
        raise ValueError(f"the Gram sums have trace {float(A.trace())}; they need embeddings that are finite, not zero")
    added = ridge * scale if relative else ridge
    identity = torch.eye(width, dtype=torch.float64)
    A, B = A + added * identity, B + added * identity  # noqa: N806
    factor, failed = torch.linalg.cholesky_ex(A)
    if int(failed):
        raise ValueError(f"{key}: found {ridge}, too small for these embeddings; accepted: larger values")
    # B A^-1 = (A^-1 B^T)^T, as A is symmetric.
    mapping = torch.cholesky_solve(B.T, factor).T
    eigenvalues = torch.linalg.eigvalsh(A)
    return Solution(mapping, added, float(eigenvalues[-1] / eigenvalues[0]), A, B)


def check_width(weights: Mapping[str, torch.Tensor], table: PromptTable) -> None:
    """Refuse prompts that another model's text encoder has read.

    Raises:
        ConfigError: the embeddings are not as wide as the K and V matrices take them.
    """
    name, weight = next(iter(weights.items()))
    if weight.shape[1] != table.width:
        raise ConfigError(
            f"model.id: {name} reads embeddings of width {weight.shape[1]}, prompts.parquet has {table.width}; "
            "they are of different models"
        )
