"""The artifact samples.parquet: neighbor and beyond samples of the prompts' tokens."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from realera.methods.realera.geometry import KINDS
from realera.settings.errors import ArtifactError
from realera.store.artifacts import read_parquet, read_parquet_blocks, write_parquet_blocks
from realera.text.prompt_table import fixed_size_lists, matrix

ROWS_AT_ONCE = 2**15
_INTEGERS = ("sample_id", "prompt_id", "token")
_REALS = ("radius", "anchor_radius", "cosine", "distance")
SCHEMA = pa.schema(
    [(name, pa.int32()) for name in _INTEGERS] + [("kind", pa.string())] + [(name, pa.float32()) for name in _REALS]
)
"""All columns but eta, whose size is the model's."""

COLUMNS = ("sample_id", "prompt_id", "token", "is_neighbor", "radius", "anchor_radius", "cosine")
"""Of a table in memory, all but eta."""


@dataclass(frozen=True)
class SampleTable:
    """Perturbations, one row a sample and perturbed token.

    Attributes:
        sample_id: int32 [num], counts from 0 in each kind and prompt.
        prompt_id: int32 [num], a target's row in prompts.parquet.
        token: int32 [num].
        is_neighbor: bool [num]; the others are beyond samples.
        radius: float32 [num], |eta| as drawn.
        anchor_radius: float32 [num], of the anchor's tolerance, 0 for none.
        cosine: float32 [num], cos(e, e + eta).
        eta: float32 [num, d].
    """

    sample_id: np.ndarray
    prompt_id: np.ndarray
    token: np.ndarray
    is_neighbor: np.ndarray
    radius: np.ndarray
    anchor_radius: np.ndarray
    cosine: np.ndarray
    eta: torch.Tensor

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.token)

    def part(self, rows: np.ndarray) -> "SampleTable":
        """Return the rows that a mask names."""
        columns = {name: getattr(self, name)[rows] for name in COLUMNS}
        return SampleTable(**columns, eta=self.eta[torch.from_numpy(rows)])

    def anchor_eta(self) -> torch.Tensor:
        """Return the anchor's perturbations [num, d]: the same unit direction, an own radius."""
        ratio = np.divide(self.anchor_radius, self.radius, out=np.zeros_like(self.radius), where=self.radius > 0)
        return self.eta * torch.from_numpy(ratio)[:, None]

    def write(self, path: Path) -> None:
        """Write samples.parquet."""
        write_blocks([self], path)

    @classmethod
    def read(cls, path: Path) -> "SampleTable":
        """Read samples.parquet, all of it.

        Raises:
            ArtifactError: it is missing, corrupt, or lacks a column.
        """
        read_parquet(path, SCHEMA)
        return _from_arrow(read_parquet(path), path)


def write_blocks(blocks: Iterable[SampleTable], path: Path) -> None:
    """Write samples.parquet from tables, at least one, that stand in it one after the other."""
    write_parquet_blocks(map(_to_arrow, blocks), path)


def read_blocks(path: Path) -> Iterator[SampleTable]:
    """Read samples.parquet ROWS_AT_ONCE rows at a time.

    Raises:
        ArtifactError: it is missing, corrupt, or lacks a column.
    """
    for table in read_parquet_blocks(path, SCHEMA, ROWS_AT_ONCE):
        yield _from_arrow(table, path)


def join(tables: Sequence[SampleTable]) -> SampleTable:
    """Put tables one after the other."""
    columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in COLUMNS}
    return SampleTable(**columns, eta=torch.cat([table.eta for table in tables]))


def _to_arrow(samples: SampleTable) -> pa.Table:
    columns = {
        "sample_id": pa.array(samples.sample_id, pa.int32()),
        "prompt_id": pa.array(samples.prompt_id, pa.int32()),
        "token": pa.array(samples.token, pa.int32()),
        "kind": pc.if_else(pa.array(samples.is_neighbor), *KINDS),
        "radius": pa.array(samples.radius, pa.float32()),
        "anchor_radius": pa.array(samples.anchor_radius, pa.float32()),
        "cosine": pa.array(samples.cosine, pa.float32()),
        "distance": pa.array(samples.eta.norm(dim=1).numpy(), pa.float32()),
        "eta": fixed_size_lists(samples.eta.numpy()),
    }
    return pa.table(columns)


def _from_arrow(table: pa.Table, path: Path) -> SampleTable:
    numbers = {name: table[name].to_numpy() for name in (*_INTEGERS, *_REALS[:3])}
    kinds = np.array(table["kind"].to_pylist(), dtype=object)
    if strange := set(kinds) - set(KINDS):
        raise ArtifactError(f"{path}: kind: found {min(strange)!r}; accepted: {', '.join(KINDS)}")
    if "eta" not in table.column_names:
        raise ArtifactError(f"{path}: no column ['eta']; it has {table.column_names}")
    eta = matrix(table["eta"], f"{path}: column eta")
    return SampleTable(is_neighbor=kinds == KINDS[0], eta=torch.from_numpy(eta), **numbers)
