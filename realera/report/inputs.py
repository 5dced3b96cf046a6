"""What the report reads: the artifacts of one concept."""

import csv
import math
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from realera.artifacts import read_parquet, take_rows
from realera.errors import ArtifactError
from realera.images import SCHEMA
from realera.summaries import read_summary

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
    + [("labels", pa.list_(pa.string())), ("values", pa.list_(pa.float32()))]
)
KEYS = ("anchor_floor", "words")
"""What the page shows of scores.json, beside what any reader needs."""

MOST_SHOWN: Mapping[str, int] = {
    "erase": 10, "synonym": 5, "associated": 5, "lookalike": 5, "preserve": 5, "unseen": 5, "rows": 20, "anchor": 10,
}  # fmt: skip
"""First seeds of each word, first rows of each prompt file, by group: nothing is picked by its looks."""

_SEEN_IN = ("nudenet", "identity", "style", "lookalikes", "unseen", "classes", "anchor")
"""Questions whose answer stands with a picture; a later one goes before an earlier one."""

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
        original: images by the original model that are shown: the shared ones and the concept's own.
        erased: images by the erased model that are shown.
        judged: {(model, image_id): (label, probability)}: what a judge sees in an image.
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
    erased = _first_rows(folder / "images.parquet", MOST_SHOWN)
    wanted = {(row["word"], row["prompt"], row["seed"]) for row in erased}
    original = _pairs_of(folder / "originals.parquet", wanted) + _pairs_of(artifacts / "shared/base.parquet", wanted)
    return Inputs(
        concept=concept,
        prompts=_read_prompts(folder / "prompts.parquet"),
        samples=read_parquet(folder / "samples.parquet", SAMPLE_COLUMNS),
        mining=read_summary(folder / "mining.json"),
        solve=read_summary(folder / "solve.json"),
        loss=_read_csv(folder / "loss.csv"),
        original=original + _first_rows(folder / "originals.parquet", {"anchor": MOST_SHOWN["anchor"]}),
        erased=erased,
        judged=_judged(read_parquet(folder / "scores.parquet", SCORE_COLUMNS).to_pylist()),
        scores=_read_scores(folder / "scores.json"),
    )


def name_of(row: Row) -> tuple[str, str, str]:
    """Return group, word and parent; the rows of a prompt file go together."""
    return row["group"], row["parent"] if row["group"] == "rows" else row["word"], row["parent"]


def _first_rows(path: Path, limits: Mapping[str, int]) -> list[Row]:
    """Return the first images of each word of the groups in `limits`; rows of a prompt file in their order."""
    found: Counter[tuple] = Counter()

    def keep(row: Row) -> bool:
        found[name_of(row)] += 1
        return found[name_of(row)] <= limits.get(row["group"], 0)

    return _rows(path, keep)


def _pairs_of(path: Path, wanted: Container[tuple]) -> list[Row]:
    return _rows(path, lambda row: row["group"] != "anchor" and (row["word"], row["prompt"], row["seed"]) in wanted)


def _rows(path: Path, keep: Callable[[Row], bool]) -> list[Row]:
    """Return some rows of an image table; the pictures of the others are not kept in memory."""
    without_png = pa.schema([field for field in SCHEMA if field.name != "png"])
    rows = read_parquet(path, without_png).to_pylist()
    index = [i for i, row in enumerate(rows) if keep(row)]
    pngs = take_rows(path, SCHEMA.field("png"), index)
    return [{**rows[i], "png": png} for i, png in zip(index, pngs, strict=True)]


def _read_prompts(path: Path) -> pa.Table:
    table = read_parquet(path, PROMPT_COLUMNS)
    embedding = read_parquet(path, ["embedding"])["embedding"]
    size = int((table.schema.metadata or {}).get(b"width", b"0"))
    kind = embedding.type
    if not (pa.types.is_fixed_size_list(kind) and size and kind.list_size % size == 0):
        raise ArtifactError(f"{path}: column embedding: found {kind} for a width of {size}")
    return table.append_column("embedding", embedding)


def _read_scores(path: Path) -> dict[str, Any]:
    found = read_summary(path)
    if missing := [key for key in KEYS if key not in found]:
        raise ArtifactError(f"{path}: no {missing[0]!r}; the stage that writes it makes it anew")
    return found


def _read_csv(path: Path) -> list[dict[str, float | None]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not reader.fieldnames:
                raise ValueError("it has no header")
            return [{key: _number(value) for key, value in row.items()} for row in reader]
    except (OSError, TypeError, ValueError, csv.Error) as error:  # TypeError: a row with more cells than the header
        raise ArtifactError(f"{path}: not readable as a table of numbers: {error}") from error


def _number(text: str) -> float | None:
    value = float(text) if text else None
    if value is not None and not math.isfinite(value):
        raise ValueError(f"found {text!r}")
    return value


def _judged(rows: Sequence[Row]) -> dict[tuple[str, str], tuple[str, float]]:
    """Return each image's likeliest label: with the anchors among the labels where that was asked."""
    found = {}
    asked = [row for row in rows if row["metric"] in _SEEN_IN and row["labels"]]
    for row in sorted(asked, key=lambda row: _SEEN_IN.index(row["metric"])):  # the last one stays
        best = max(range(len(row["labels"])), key=row["values"].__getitem__)
        found[row["model"], row["image_id"]] = (row["labels"][best], row["values"][best])
    return found
