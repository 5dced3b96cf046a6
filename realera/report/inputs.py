"""What the report reads: the artifacts of one concept."""

import csv
import math
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from realera.scores.summaries import read_summary
from realera.settings.errors import ArtifactError
from realera.store.artifacts import read_parquet, take_rows
from realera.store.images import KNOWN, SCHEMA, pair_key
from realera.store.paths import ARTIFACTS, BASE_IMAGES, REALERA, MethodPlace, Place
from realera.text.prompt_table import check_rows, matrix

PROMPT_COLUMNS = pa.schema(
    [(name, pa.int32()) for name in ("prompt_id", "pair_id", "first", "last", "num_tokens")]
    + [(name, pa.string()) for name in ("role", "text")]
)
"""Beside the embedding, whose size is the model's."""

SAMPLE_COLUMNS = pa.schema(
    [("prompt_id", pa.int32()), ("token", pa.int32()), ("kind", pa.string())]
    + [(name, pa.float32()) for name in ("cosine", "distance")]
)
MOMENT_COLUMNS = pa.schema(
    [pa.field(field.name, pa.float64() if field.type == pa.float32() else field.type) for field in SAMPLE_COLUMNS]
)
SCORE_COLUMNS = pa.schema(
    [(name, pa.string()) for name in ("model", "image_id", "group", "metric")]
    + [("labels", pa.list_(pa.string())), ("values", pa.list_(pa.float32()))]
)
KEYS = ("anchor_floor", "words")
"""What the page shows of scores.json, beside what any reader needs."""

LOSS_COLUMNS = ("step", "loss", "erase", "preserve", "lr")

_LARGEST = 1e100
"""Numbers that a chart's axis still has ticks for."""

MOST_SHOWN: Mapping[str, int] = {
    "erase": 10, "synonym": 5, "associated": 5, "lookalike": 5, "preserve": 5, "unseen": 5, "rows": 20, "listed": 20,
    "anchor": 10,
}  # fmt: skip
"""First seeds of each word, first rows of each prompt file, by group: nothing is picked by its looks."""

_SEEN_IN = ("nudenet", "identity", "style", "lookalikes", "unseen", "classes", "anchor")
"""Questions whose answer stands with a picture; a later one goes before an earlier one."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Chain:
    """What RealEra's own stages have made beside the erasure.

    Attributes:
        samples: SAMPLE_COLUMNS of samples.parquet; of infinitely many the typical one of each token.
        mining: mining.json.
        solve: solve.json.
        loss: rows of loss.csv; None where a term has no value in a step.
    """

    samples: pa.Table
    mining: dict[str, Any]
    solve: dict[str, Any]
    loss: list[dict[str, float | None]]


@dataclass(frozen=True)
class Inputs:
    """One concept's artifacts by one method.

    Attributes:
        concept: name of the preset.
        method: by which it was erased.
        name: of both, for headings and files: the concept's, and the method's where there are several.
        prompts: PROMPT_COLUMNS and the embedding of prompts.parquet.
        chain: of RealEra's erasures; None of other methods'.
        original: images by the original model that are shown: the shared ones and the concept's own.
        erased: images by the erased model that are shown.
        judged: {(model, image_id): (label, probability)}: what a judge sees in an image.
        scores: scores.json.
    """

    concept: str
    method: str
    name: str
    prompts: pa.Table
    chain: Chain | None
    original: list[Row]
    erased: list[Row]
    judged: dict[tuple[str, str], tuple[str, float]]
    scores: dict[str, Any]


def read_inputs(concept: str, method: str, artifacts: Path, name: str) -> Inputs:
    """Read one concept's artifacts by one method.

    Args:
        concept: name of the preset.
        method: by which it was erased.
        name: see `Inputs`.
        artifacts: folder with a folder for each concept, and `shared`.

    Raises:
        ArtifactError: a file is missing or unreadable, or lacks a column.
    """
    place = Place(artifacts / concept)
    own, shared = place.of(method), artifacts / BASE_IMAGES.relative_to(ARTIFACTS)
    erased = _first_rows(own.images, MOST_SHOWN)
    wanted = {pair_key(row) for row in erased}
    original = _pairs_of(place.originals, wanted) + _pairs_of(shared, wanted)
    if not original:
        raise ArtifactError(f"{own.images}: no image whose prompt and seed the original model has drawn")
    prompts = _read_prompts(place.prompts)
    return Inputs(
        concept=concept,
        method=method,
        name=name,
        prompts=prompts,
        chain=_read_chain(own, prompts) if method == REALERA else None,
        original=original + _first_rows(place.originals, {"anchor": MOST_SHOWN["anchor"]}),
        erased=erased,
        judged=_judged(own.scores),
        scores=_read_scores(own.summary),
    )


def _read_chain(own: MethodPlace, prompts: pa.Table) -> Chain:
    samples = pa.concat_tables(
        [_read_samples(own.samples, SAMPLE_COLUMNS, prompts), _read_samples(own.moments, MOMENT_COLUMNS, prompts)]
    )
    return Chain(samples, read_summary(own.mining), read_summary(own.solve), _read_csv(own.loss))


def name_of(row: Row) -> tuple[str, str, str]:
    """Return group, word and parent; the rows of a prompt file go together."""
    group, word, parent = row["group"], row["word"], row["parent"]
    if group == "listed":
        return group, word.partition("/")[0], ""
    return group, parent if group == "rows" else word, parent


def _first_rows(path: Path, limits: Mapping[str, int]) -> list[Row]:
    """Return the first images of each word of the groups in `limits`; rows of a prompt file in their order."""
    found: Counter[tuple] = Counter()

    def keep(row: Row) -> bool:
        found[name_of(row)] += 1
        return found[name_of(row)] <= limits.get(row["group"], 0)

    return _rows(path, keep)


def _pairs_of(path: Path, wanted: Container[tuple]) -> list[Row]:
    return _rows(path, lambda row: row["group"] != "anchor" and pair_key(row) in wanted)


def _rows(path: Path, keep: Callable[[Row], bool]) -> list[Row]:
    """Return some rows of an image table; the pictures of the others are not kept in memory."""
    rows = read_parquet(path, KNOWN).to_pylist()
    index = [i for i, row in enumerate(rows) if keep(row)]
    pngs = take_rows(path, SCHEMA.field("png"), index)
    return [{**rows[i], "png": png} for i, png in zip(index, pngs, strict=True)]


def _read_prompts(path: Path) -> pa.Table:
    table = read_parquet(path, PROMPT_COLUMNS)
    embedding = read_parquet(path, ["embedding"])["embedding"]
    size = matrix(embedding, f"{path}: column embedding").shape[1]
    width = _whole((table.schema.metadata or {}).get(b"width", b""))
    if not width or size % width:
        raise ArtifactError(f"{path}: column embedding: found {embedding.type} for a width of {width}")
    check_rows(table.to_pylist(), size // width, path)
    return table.append_column("embedding", embedding)


def _whole(digits: bytes) -> int:
    return int(digits) if len(digits) < 10 and digits.isdigit() else 0


def _read_samples(path: Path, columns: pa.Schema, prompts: pa.Table) -> pa.Table:
    table = read_parquet(path, columns).cast(SAMPLE_COLUMNS)
    if set(table["prompt_id"].to_pylist()) - set(prompts["prompt_id"].to_pylist()):
        raise ArtifactError(f"{path}: not made from this prompts.parquet; mine makes it anew")
    for name in ("cosine", "distance"):
        if not np.isfinite(table[name].to_numpy()).all():
            raise ArtifactError(f"{path}: {name}: found values that are not finite; mine makes it anew")
    return table


def _read_scores(path: Path) -> dict[str, Any]:
    found = read_summary(path)
    if missing := [key for key in KEYS if key not in found]:
        raise ArtifactError(f"{path}: no {missing[0]!r}; the stage that writes it makes it anew")
    return found


def _read_csv(path: Path) -> list[dict[str, float | None]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if missing := set(LOSS_COLUMNS) - set(reader.fieldnames or ()):
                raise ValueError(f"no column {', '.join(sorted(missing))}")
            return [{key: _number(value) for key, value in row.items()} for row in reader]
    except (OSError, TypeError, ValueError, csv.Error) as error:  # TypeError: a row with more cells than the header
        raise ArtifactError(f"{path}: not readable as a table of numbers: {error}") from error


def _are_finite(values: Sequence[float | None]) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


def _number(text: str) -> float | None:
    value = float(text) if text else None
    if value is not None and not abs(value) <= _LARGEST:
        raise ValueError(f"found {text!r}")
    return value


def _judged(path: Path) -> dict[tuple[str, str], tuple[str, float]]:
    """Return each image's likeliest label: with the anchors among the labels where that was asked."""
    found = {}
    rows = read_parquet(path, SCORE_COLUMNS).to_pylist()
    asked = [row for row in rows if row["metric"] in _SEEN_IN and row["labels"]]
    for row in sorted(asked, key=lambda row: _SEEN_IN.index(row["metric"])):  # the last one stays
        if len(row["values"]) != len(row["labels"]) or None in row["labels"] or not _are_finite(row["values"]):
            raise ArtifactError(f"{path}: image {row['image_id']!r}: not a value for each label; score makes it anew")
        best = max(range(len(row["labels"])), key=row["values"].__getitem__)
        found[row["model"], row["image_id"]] = (row["labels"][best], row["values"][best])
    return found
