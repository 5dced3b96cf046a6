"""What the report reads: the artifacts of one concept."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from realera.artifacts import read_json, read_parquet
from realera.errors import ArtifactError

PROMPT_COLUMNS = ("prompt_id", "role", "text", "pair_id", "last", "num_tokens", "embedding")
SAMPLE_COLUMNS = ("prompt_id", "token", "kind", "cosine", "distance")
IMAGE_COLUMNS = ("image_id", "group", "word", "parent", "prompt", "seed", "png")
SCORE_COLUMNS = ("model", "image_id", "group", "metric", "labels", "probabilities")

Row = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """One concept's artifacts.

    Attributes:
        concept: name of the preset.
        prompts: PROMPT_COLUMNS of prompts.parquet.
        samples: SAMPLE_COLUMNS of samples.parquet.
        mining: mining.json.
        solve: solve.json.
        loss: rows of loss.csv; None where a term has no value in a step.
        original: images by the original model, the shared ones and the concept's own.
        erased: images by the erased model.
        judged: {(model, image_id): (label, probability)}: what the judge sees in an image.
        scores: scores.json.
    """

    concept: str
    prompts: pa.Table
    samples: pa.Table
    mining: dict[str, Any]
    solve: dict[str, Any]
    loss: list[dict[str, float | None]]
    original: list[Row]
    erased: list[Row]
    judged: dict[tuple[str, str], tuple[str, float]]
    scores: dict[str, Any]


def read_inputs(concept: str, artifacts: Path) -> Inputs:
    """Read one concept's artifacts.

    Args:
        concept: name of the preset.
        artifacts: folder with a folder for each concept, and `shared`.

    Raises:
        ArtifactError: a file is missing or unreadable, or lacks a column.
    """
    folder = artifacts / concept
    shared = read_parquet(artifacts / "shared" / "base.parquet", IMAGE_COLUMNS)
    own = read_parquet(folder / "originals.parquet", IMAGE_COLUMNS)
    return Inputs(
        concept=concept,
        prompts=read_parquet(folder / "prompts.parquet", PROMPT_COLUMNS),
        samples=read_parquet(folder / "samples.parquet", SAMPLE_COLUMNS),
        mining=read_json(folder / "mining.json"),
        solve=read_json(folder / "solve.json"),
        loss=_read_csv(folder / "loss.csv"),
        original=own.to_pylist() + shared.to_pylist(),
        erased=read_parquet(folder / "images.parquet", IMAGE_COLUMNS).to_pylist(),
        judged=_judged(read_parquet(folder / "scores.parquet", SCORE_COLUMNS).to_pylist()),
        scores=read_json(folder / "scores.json"),
    )


def _read_csv(path: Path) -> list[dict[str, float | None]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise ArtifactError(f"{path}: not readable as a table of numbers: {error}") from error


def _number(text: str) -> float | None:
    return float(text) if text else None


def _judged(rows: Sequence[Row]) -> dict[tuple[str, str], tuple[str, float]]:
    """Return each image's likeliest label: with the anchors among the labels where that was asked."""
    found = {}
    for row in sorted(rows, key=lambda row: row["metric"] == "anchor"):  # the last one stays
        best = max(range(len(row["labels"])), key=row["probabilities"].__getitem__)
        found[row["model"], row["image_id"]] = (row["labels"][best], row["probabilities"][best])
    return found
