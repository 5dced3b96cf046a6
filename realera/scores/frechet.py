"""How far two sets of images are from each other, by their features (`realera.judges.frechet` makes them).

| distance | of two sets of features |
|---|---|
| frechet | |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of means and covariances (Heusel et al. 2017) |
| kernel | squared maximum mean discrepancy, unbiased, of the kernel (x.y / d + 1)^3 (Binkowski et al. 2018) |

Distances are torchmetrics'. They compare only within one kind of features: those of unit vectors
are small numbers, and nothing like a paper's FID.

Few images make the Frechet distance too large: for n images its bias falls as 1 / n, and with no
more images than features the covariances are singular. Compare it between sets of one n only. The
kernel distance has no such bias, and can be negative.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from realera.settings.errors import ArtifactError, ConfigError

_SUBSET_SIZE = 1000
"""Images that the kernel distance takes at once, Binkowski's choice."""

_NUM_SUBSETS = 10
"""Subsets that it takes the mean of, where the sets are larger or of different sizes."""

Distance = Callable[[torch.Tensor, torch.Tensor, int], float]


@dataclass(frozen=True)
class SetDistance:
    """A distance between two sets of images.

    Attributes:
        value: of the images as they are.
        low, high: its interval.
        num_images: of the smaller set; the Frechet distance's bias depends on it.
    """

    value: float
    low: float
    high: float
    num_images: int


def set_distance(
    kind: str,
    first_nd: np.ndarray,
    second_md: np.ndarray,
    seed: int,
    num_resamples: int = 100,
    confidence: float = 0.95,
    paired: bool = False,
) -> SetDistance:
    """Return a distance between two sets of features, with its bootstrap interval over images.

    Resampled sets hold images twice, which makes either distance too large. So the draws are
    shifted until their mean is the value: the interval says how far other images of the same
    number would move the value, not how large the bias of that number is.

    Args:
        kind: frechet or kernel.
        first_nd: [n, d], of the original model's images for instance.
        second_md: [m, d].
        seed: of the resamples and of the kernel distance's subsets.
        num_resamples: draws; each costs as much as the value, for the Frechet distance O(d^3).
        confidence: of the interval.
        paired: rows of both belong together and are drawn together.

    Raises:
        ConfigError: the kind is not known.
        ArtifactError: fewer than 2 images, features that are not finite or of different widths, or
            pairs that are not whole.
        ValueError: num_resamples < 1 or confidence outside (0, 1).
    """
    if kind not in DISTANCES:
        raise ConfigError(f"set distance: found {kind!r}; accepted: {', '.join(DISTANCES)}")
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"found {num_resamples} resamples, confidence {confidence}; accepted: 1 or more, 0 to 1")
    first, second = (_checked(kind, values) for values in (first_nd, second_md))
    if first.shape[1] != second.shape[1] or (paired and len(first) != len(second)):
        found = f"{list(first.shape)} and {list(second.shape)}"
        raise ArtifactError(f"set distance {kind}: found features {found}; accepted: one width, pairs of one number")
    generator = np.random.default_rng(seed)
    value = DISTANCES[kind](first, second, _draw_seed(generator))
    draws = np.array([_resampled(kind, first, second, generator, paired) for _ in range(num_resamples)])
    low, high = np.quantile(draws - draws.mean() + value, [(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = min(float(low), value), max(float(high), value)
    return SetDistance(value, max(low, 0.0) if kind == "frechet" else low, high, min(len(first), len(second)))


def frechet_distance(first_nd: torch.Tensor, second_md: torch.Tensor, seed: int = 0) -> float:
    """Return the Frechet distance of float64 features [n, d] and [m, d], n, m >= 2; nothing is random in it."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_AsTheyAre(first_nd.shape[1]))
    metric.update(first_nd, real=True)
    metric.update(second_md, real=False)
    return max(0.0, float(metric.compute()))  # below 0 by rounding only


def kernel_distance(first_nd: torch.Tensor, second_md: torch.Tensor, seed: int = 0) -> float:
    """Return the kernel distance of float64 features [n, d] and [m, d], n, m >= 2.

    Sets of one size, up to 1000, are used whole. Of others it is the mean over 10 pairs of subsets,
    as large as the smaller set and 1000 allow, that `seed` draws.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(len(first_nd), len(second_md), _SUBSET_SIZE)
    whole = size == len(first_nd) == len(second_md)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that it keeps the features, which are here anyway
        torch.manual_seed(seed)  # the library draws from torch's own generator
        metric = KernelInceptionDistance(
            feature=_AsTheyAre(first_nd.shape[1]), subsets=1 if whole else _NUM_SUBSETS, subset_size=size
        )
        metric.update(first_nd, real=True)
        metric.update(second_md, real=False)
        return float(metric.compute()[0])


DISTANCES: Mapping[str, Distance] = {"frechet": frechet_distance, "kernel": kernel_distance}


class _AsTheyAre(torch.nn.Module):
    """Stands where torchmetrics has a network, for features that are there already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values


def _resampled(
    kind: str, first: torch.Tensor, second: torch.Tensor, generator: np.random.Generator, paired: bool
) -> float:
    rows = generator.integers(len(first), size=len(first))
    others = rows if paired else generator.integers(len(second), size=len(second))
    return DISTANCES[kind](first[rows], second[others], _draw_seed(generator))


def _draw_seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**31))


def _checked(kind: str, values: np.ndarray) -> torch.Tensor:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2 or array.shape[1] < 1:
        found = f"features of shape {list(array.shape)}"
        raise ArtifactError(f"set distance {kind}: found {found}; accepted: 2 images or more")
    if not np.isfinite(array).all():
        raise ArtifactError(f"set distance {kind}: found features that are not finite; accepted: finite numbers")
    return torch.from_numpy(array)
