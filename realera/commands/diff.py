"""Two experiments side by side: which figure moved, by how much, with the interval of pairs.

    first, second = (read_scores(experiment, "airplane", "realera") for experiment in ("A", "B"))
    print(as_text(compare(first, second, params.score, preset)))

Both erased models drew the same prompts from the same seeds, so they are compared image by image: one
takes the place that the original model has elsewhere.
"""

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from realera.erasures.finished import chosen_method
from realera.judges.raw import SCORES
from realera.scores.estimates import DIFFERENCE
from realera.scores.summary import as_text, summarize
from realera.settings.config import Params, ScoreParams
from realera.settings.errors import ArtifactError, RealEraError
from realera.settings.presets import Preset
from realera.store.artifacts import read_parquet
from realera.store.paths import method_place

WORKSPACE = "workspace"
"""As in `dvc metrics diff`: what lies in artifacts/ now."""

__all__ = ["as_text", "compare", "moved", "read_scores", "two_methods"]


def read_scores(revision: str, concept: str, method: str) -> pa.Table:
    """Return scores.parquet of an experiment, branch, tag, commit or the workspace.

    Raises:
        ArtifactError: DVC does not know the revision, or has no such file of it.
    """
    path = method_place(concept, method).scores
    if revision == WORKSPACE:
        return read_parquet(path, SCORES)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / path.name
        command = ["dvc", "get", ".", path.as_posix(), "--rev", revision, "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
            raise ArtifactError(
                f"{revision}: {path}: {lines[-1]}; accepted: a name of dvc exp list, a commit, workspace"
            )
        return read_parquet(out, SCORES)


def two_methods(params: Params, given: Sequence[str] | None) -> tuple[str, str]:
    """Return the methods whose erasures are compared: none given is the first of `methods`, one is both.

    Raises:
        RealEraError: more than two, or one that `methods` does not have.
    """
    if given and len(given) > 2:
        raise RealEraError(f"--method: found {len(given)}; accepted: one, or two: one for each side")
    found = [chosen_method(params, name) for name in given or [params.methods[0]]]
    return found[0], found[-1]


def compare(first: pa.Table, second: pa.Table, params: ScoreParams, preset: Preset) -> dict[str, Any]:
    """Return a summary as of scores.json in which `base` is the first erased model, `erased` the second.

    Images that only one of them drew are left out; `unpaired` says how many.

    Raises:
        ArtifactError: they have no image in common.
    """
    tables = [_erased(first, "base"), _erased(second, "erased")]
    keys = [set(_keys(table)) for table in tables]
    common = keys[0] & keys[1]
    if not common:
        raise ArtifactError("scores: the two have no image in common; accepted: the same prompts and seeds")
    rows = pa.concat_tables([_only(table, common) for table in tables])
    return summarize(rows, params, preset, floors=False) | {"unpaired": len(keys[0] ^ keys[1])}


def moved(summary: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return (metric, reading, change) where the interval of the change excludes 0."""
    return [
        (name, reading, change)
        for name, readings in summary[DIFFERENCE].items()
        for reading, change in (readings or {}).items()
        if change["low"] > 0 or change["high"] < 0
    ]


def _erased(table: pa.Table, name: str) -> pa.Table:
    """Return the erased model's rows under another model's name."""
    rows = table.filter(pc.equal(table["model"], "erased"))
    column = pa.array([name] * rows.num_rows, pa.string())
    return rows.set_column(rows.schema.get_field_index("model"), "model", column)


def _keys(table: pa.Table) -> Sequence[tuple]:
    names = ("group", "word", "parent", "prompt", "seed", "metric")
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def _only(table: pa.Table, keys: set[tuple]) -> pa.Table:
    return table.take(pa.array([i for i, key in enumerate(_keys(table)) if key in keys], pa.int64()))
