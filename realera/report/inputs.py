"""What the report reads: the artifacts of one concept."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from realera.artifacts import read_json, read_parquet
from realera.errors import ArtifactError
from realera.images import SCHEMA

PROMPT_COLUMNS = pa.schema(
    [(name, pa.int32()) for name in ("prompt_id", "pair_id", "last", "num_tokens")]
    + [(name, pa.string()) for name in ("role", "text")]
)
"""Beside the embedding, whose size is the model's."""

SAMPLE_COLUMNS = pa.schema(
    [("prompt_id", pa.int32()), ("token", pa.int32()), ("kind", pa.string())]
    + [(name, pa.float32()) for name in ("cosine", "distance")]
)
SCORE_COLUMNS = pa.schema(
    [(name, pa.string()) for name in ("model", "image_id", "group", "metric")]
    + [("labels", pa.list_(pa.string())), ("probabilities", pa.list_(pa.float32()))]
)
KEYS = {
    "mining.json": ("neighbor", "beyond"),
    "solve.json": ("rows", "width", "condition_number", "ridge", "layers"),
    "scores.json": ("base", "erased", "difference", "anchor_floor", "words"),
}
"""What the report shows of them."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """One concept's artifacts.

    Attributes:
        concept: name of the preset.
        prompts: PROMPT_COLUMNS and the embedding of prompts.parquet.
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
    shared = read_parquet(artifacts / "shared" / "base.parquet", SCHEMA)
    own = read_parquet(folder / "originals.parquet", SCHEMA)
    return Inputs(
        concept=concept,
        prompts=_read_prompts(folder / "prompts.parquet"),
        samples=read_parquet(folder / "samples.parquet", SAMPLE_COLUMNS),
        mining=_read_object(folder / "mining.json"),
        solve=_read_object(folder / "solve.json"),
        loss=_read_csv(folder / "loss.csv"),
        original=own.to_pylist() + shared.to_pylist(),
        erased=read_parquet(folder / "images.parquet", SCHEMA).to_pylist(),
        judged=_judged(read_parquet(folder / "scores.parquet", SCORE_COLUMNS).to_pylist()),
        scores=_read_object(folder / "scores.json"),
    )


def _read_prompts(path: Path) -> pa.Table:
    table = read_parquet(path, PROMPT_COLUMNS)
    embedding = read_parquet(path, ["embedding"])["embedding"]
    size = int((table.schema.metadata or {}).get(b"width", b"0"))
    kind = embedding.type
    if not (pa.types.is_fixed_size_list(kind) and size and kind.list_size % size == 0):
        raise ArtifactError(f"{path}: column embedding: found {kind} for a width of {size}")
    return table.append_column("embedding", embedding)


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must have the keys of KEYS."""
    found = read_json(path)
    for key in KEYS[path.name]:
        if not isinstance(found, dict) or key not in found:
            raise ArtifactError(f"{path}: no {key!r}; the stage that writes it makes it anew")
    return found


def _read_csv(path: Path) -> list[dict[str, float | None]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not reader.fieldnames:
                raise ValueError("it has no header")
            return [{key: _number(value) for key, value in row.items()} for row in reader]
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
