"""Distances between what both models drew as sets: whether the erased model's pictures are as varied as before.

The features are the CLIP judge's, from scores.parquet; see `realera.scores.frechet` for the two distances and
for what few images do to them.
"""

from typing import Any

import numpy as np

from realera.scores.estimates import figure
from realera.scores.frechet import DISTANCES, set_distance
from realera.settings.config import ScoreParams

MOST_RESAMPLES = 100
"""Each draw is a whole distance; more would take minutes and move the interval little."""


def compare_sets(features_imd: np.ndarray, params: ScoreParams) -> dict[str, dict[str, Any]]:
    """Return {distance: figure} between the base model's images and the erased model's.

    Args:
        features_imd: [image, model, width], both models' images of each pair.
        params: intervals.

    Raises:
        ArtifactError: fewer than two pairs, or features that are not finite.
    """
    base_nd, erased_nd = features_imd[:, 0], features_imd[:, 1]
    resamples = min(params.num_resamples, MOST_RESAMPLES)
    found = {}
    for kind in DISTANCES:
        distance = set_distance(kind, base_nd, erased_nd, params.seed, resamples, params.confidence, paired=True)
        found[kind] = figure(distance.value, distance.low, distance.high, distance.num_images)
    return found
