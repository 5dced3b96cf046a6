"""Where samples, anchors and preserved prompts lie, seen from the target.

Everything is read at one token, which sums up a prompt: its end-of-text token, or the name's
last token when no other is perturbed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

MOST_POINTS = 300
"""Of each kind in a plot; evenly spaced ones are taken of more."""


@dataclass(frozen=True)
class Point:
    """One text embedding, relative to the target's e at the same token.

    Attributes:
        kind: neighbor, beyond, anchor or preserve.
        label: the prompt; of a sample, the target prompt that it was drawn around.
        distance: |x - e| / |e|.
        cosine: cos(e, x).
    """

    kind: str
    label: str
    distance: float
    cosine: float


def points(prompts: pa.Table, samples: pa.Table, span: str) -> list[Point]:
    """Return the neighbors, beyond samples, preserved prompts and anchors of an erasure.

    An anchor is compared with the target's prompt of the same template, a preserved prompt
    with the nearest of the target's prompts.

    Args:
        prompts: prompts.parquet.
        samples: samples.parquet.
        span: `sampler.span`.
    """
    rows = prompts.drop_columns(["embedding"]).to_pylist()
    tokens = [row["last"] if span == "concept" else row["num_tokens"] - 1 for row in rows]
    vectors_pd = _vectors(prompts, tokens)
    return [
        *_samples(rows, tokens, vectors_pd, samples),
        *_preserved(rows, vectors_pd),
        *_anchors(rows, vectors_pd),
    ]


def nearest_preserved(found: Sequence[Point], count: int) -> list[Point]:
    """Return the preserved prompts that lie nearest to the target, nearest first."""
    preserved = [point for point in found if point.kind == "preserve"]
    return sorted(preserved, key=lambda point: (point.distance, point.label))[:count]


def _vectors(prompts: pa.Table, tokens: Sequence[int]) -> np.ndarray:
    """Return each prompt's embedding at its token, float64 [num_prompts, d]."""
    width = int((prompts.schema.metadata or {})[b"width"])
    flat = prompts["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    embeddings_ptd = flat.reshape(len(tokens), -1, width)
    return embeddings_ptd[np.arange(len(tokens)), list(tokens)].astype(np.float64)


def _samples(rows: Sequence[dict], tokens: Sequence[int], vectors_pd: np.ndarray, samples: pa.Table) -> list[Point]:
    """Return the samples at the token that is looked at, thinned."""
    token = {row["prompt_id"]: token for row, token in zip(rows, tokens, strict=True)}
    norm = {row["prompt_id"]: float(np.linalg.norm(v)) for row, v in zip(rows, vectors_pd, strict=True)}
    text = {row["prompt_id"]: row["text"] for row in rows}
    here = [sample for sample in samples.to_pylist() if sample["token"] == token[sample["prompt_id"]]]
    found = []
    for kind in ("beyond", "neighbor"):
        for sample in thinned([sample for sample in here if sample["kind"] == kind]):
            prompt = sample["prompt_id"]
            found.append(Point(kind, text[prompt], _share(sample["distance"], norm[prompt]), sample["cosine"]))
    return found


def _anchors(rows: Sequence[dict], vectors_pd: np.ndarray) -> list[Point]:
    targets = {row["pair_id"]: v for row, v in zip(rows, vectors_pd, strict=True) if row["role"] == "target"}
    return [
        _point("anchor", row["text"], targets[row["pair_id"]], v)
        for row, v in zip(rows, vectors_pd, strict=True)
        if row["role"] == "anchor"
    ]


def _preserved(rows: Sequence[dict], vectors_pd: np.ndarray) -> list[Point]:
    targets_pd = vectors_pd[[row["role"] == "target" for row in rows]]
    return [
        min((_point("preserve", row["text"], e, v) for e in targets_pd), key=lambda point: point.distance)
        for row, v in zip(rows, vectors_pd, strict=True)
        if row["role"] == "preserve"
    ]


def _point(kind: str, label: str, e: np.ndarray, x: np.ndarray) -> Point:
    length = float(np.linalg.norm(e))
    distance = _share(float(np.linalg.norm(x - e)), length)
    return Point(kind, label, distance, _share(float(e @ x), length * float(np.linalg.norm(x))))


def _share(part: float, whole: float) -> float:
    """Return part / whole; 0 beside an embedding of no length, which has no direction either."""
    return part / whole if whole else 0.0


def thinned(items: Sequence, most: int = MOST_POINTS) -> list:
    """Return at most `most` items, evenly spaced and in order."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]
