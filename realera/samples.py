"""The artifact samples.parquet: neighbor and beyond samples of the prompts' tokens."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from realera.artifacts import read_parquet, write_parquet
from realera.errors import ArtifactError
from realera.prompt_table import fixed_size_lists, matrix

KINDS = ("neighbor", "beyond")
_INTEGERS = ("sample_id", "prompt_id", "token")
_REALS = ("radius", "anchor_radius", "cosine", "distance")
_SCHEMA = pa.schema(
    [(name, pa.int32()) for name in _INTEGERS] + [("kind", pa.string())] + [(name, pa.float32()) for name in _REALS]
)
"""All columns but eta, whose size is the model's."""


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

    def anchor_eta(self) -> torch.Tensor:
        """Return the anchor's perturbations [num, d]: the same unit direction, an own radius."""
        ratio = np.divide(self.anchor_radius, self.radius, out=np.zeros_like(self.radius), where=self.radius > 0)
        return self.eta * torch.from_numpy(ratio)[:, None]

    def write(self, path: Path) -> None:
        """Write samples.parquet."""
        columns = {
            "sample_id": pa.array(self.sample_id, pa.int32()),
            "prompt_id": pa.array(self.prompt_id, pa.int32()),
            "token": pa.array(self.token, pa.int32()),
            "kind": pa.array(np.where(self.is_neighbor, *KINDS).tolist(), pa.string()),
            "radius": pa.array(self.radius, pa.float32()),
            "anchor_radius": pa.array(self.anchor_radius, pa.float32()),
            "cosine": pa.array(self.cosine, pa.float32()),
            "distance": pa.array(self.eta.norm(dim=1).numpy(), pa.float32()),
            "eta": fixed_size_lists(self.eta.numpy()),
        }
        write_parquet(pa.table(columns), path)

    @classmethod
    def read(cls, path: Path) -> "SampleTable":
        """Read samples.parquet.

        Raises:
            ArtifactError: it is missing, corrupt, or lacks a column.
        """
        table = read_parquet(path, _SCHEMA)
        numbers = {name: table[name].to_numpy() for name in (*_INTEGERS, *_REALS[:3])}
        kinds = np.array(table["kind"].to_pylist(), dtype=object)
        if strange := set(kinds) - set(KINDS):
            raise ArtifactError(f"{path}: kind: found {min(strange)!r}; accepted: {', '.join(KINDS)}")
        eta = matrix(read_parquet(path, ["eta"])["eta"], f"{path}: column eta")
        return cls(is_neighbor=kinds == KINDS[0], eta=torch.from_numpy(eta), **numbers)
