"""The artifact prompts.parquet: prompts, where their names lie, and what the UNet reads of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from realera.settings.errors import ArtifactError
from realera.store.artifacts import read_parquet, write_parquet
from realera.text.prompts import Prompt
from realera.text.spans import Pair, Tokens, aligned

if TYPE_CHECKING:
    import torch

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.int32()),
        ("target", pa.string()),
        ("role", pa.string()),
        ("text", pa.string()),
        ("pair_id", pa.int32()),
        ("first", pa.int32()),
        ("last", pa.int32()),
        ("num_tokens", pa.int32()),
    ]
)
"""All columns but the embedding, whose size is the model's."""


_SHOWN = 3

SAME = 1e-4
"""Distance, in a vector's own length, up to which two are the same: one text's rounding differs between batches."""


class NotErased(NamedTuple):
    """Tokens of a target's name that stay as they are, see `PromptTable.shared`.

    Attributes:
        target: its name.
        num_prompts: of its prompts that have such tokens.
        num_tokens: of all of them together.
        preserved: prompts that have the same vectors, the first few.
    """

    target: str
    num_prompts: int
    num_tokens: int
    preserved: list[str]

    def sentence(self) -> str:
        """Return it for a reader."""
        texts = ", ".join(repr(text) for text in self.preserved)
        return (
            f"{self.target!r}: in {self.num_prompts} of its prompts the name has vectors that preserved prompts "
            f"have, too ({texts}); these {self.num_tokens} tokens are not erased, only what follows them"
        )


@dataclass(frozen=True)
class PromptTable:
    """Prompts with their tokens and embeddings [num_prompts, T, d], float32."""

    prompts: Sequence[Prompt]
    tokens: Sequence[Tokens]
    embeddings: "torch.Tensor"

    @property
    def length(self) -> int:
        """T, tokens of a prompt with padding."""
        return self.embeddings.shape[1]

    @property
    def width(self) -> int:
        """d, the text embedding's width."""
        return self.embeddings.shape[2]

    def pairs(self, span: str) -> list[Pair]:
        """Return each target's prompt with its anchor's, and the tokens that `span` names but for those in `shared`.

        Where nothing else is left, the name's last token is: something must be erased.
        """
        anchors = {prompt.pair_id: i for i, prompt in enumerate(self.prompts) if prompt.role == "anchor"}
        targets = [(i, prompt.pair_id) for i, prompt in enumerate(self.prompts) if prompt.role == "target"]
        return [Pair(i, anchors[pair], self._erased(i, anchors[pair], span)) for i, pair in targets]

    def _erased(self, target: int, anchor: int, span: str) -> list[tuple[int, int]]:
        named = aligned(self.tokens[target], self.tokens[anchor], span, self.length)
        left = [(own, other) for own, other in named if (target, own) not in self.shared]
        return left or [(own, other) for own, other in named if own == self.tokens[target].last]

    @cached_property
    def shared(self) -> dict[tuple[int, int], int]:
        """The tokens of the targets' names whose vector a preserved prompt has, too.

        {(target's prompt, token): a preserved prompt}. A causal text encoder gives "fire" the same vector in "a photo
        of the fire" and in "a photo of the fire engine": to erase it here and to keep it there is a contradiction.
        What follows the name, up to the last padding token, has read the whole name and tells the two apart.
        """
        kept = self._preserved()
        found = {}
        for i, prompt in enumerate(self.prompts):
            names = range(self.tokens[i].first, self.tokens[i].last + 1) if prompt.role == "target" and kept else ()
            for token in names:
                own = self.embeddings[i, token]
                distance = (self.embeddings[kept, token] - own).norm(dim=-1)
                nearest = int(distance.argmin())
                if distance[nearest] <= SAME * own.norm():
                    found[i, token] = kept[nearest]
        return found

    def not_erased(self) -> list[NotErased]:
        """Return, for each target that has such tokens, what of its name is in `shared`."""
        found = []
        for target in dict.fromkeys(self.prompts[prompt].target for prompt, _ in self.shared):
            own = {place: kept for place, kept in self.shared.items() if self.prompts[place[0]].target == target}
            texts = list(dict.fromkeys(self.prompts[kept].text for kept in own.values()))
            found.append(NotErased(target, len({prompt for prompt, _ in own}), len(own), texts[:_SHOWN]))
        return found

    def preserved(self) -> "torch.Tensor":
        """Return every token of every preserved prompt, with BOS and padding: [num, d]."""
        return self.embeddings[self._preserved()].reshape(-1, self.width)

    def _preserved(self) -> list[int]:
        return [i for i, prompt in enumerate(self.prompts) if prompt.role == "preserve"]

    def write(self, path: Path) -> None:
        """Write prompts.parquet."""
        flat = self.embeddings.reshape(len(self.prompts), -1).numpy()
        columns = {
            "prompt_id": pa.array(range(len(self.prompts)), pa.int32()),
            "target": pa.array([prompt.target for prompt in self.prompts], pa.string()),
            "role": pa.array([prompt.role for prompt in self.prompts], pa.string()),
            "text": pa.array([prompt.text for prompt in self.prompts], pa.string()),
            "pair_id": pa.array([prompt.pair_id for prompt in self.prompts], pa.int32()),
            "first": pa.array([tokens.first for tokens in self.tokens], pa.int32()),
            "last": pa.array([tokens.last for tokens in self.tokens], pa.int32()),
            "num_tokens": pa.array([tokens.num_tokens for tokens in self.tokens], pa.int32()),
            "embedding": fixed_size_lists(flat),
        }
        sizes = {"num_tokens": str(self.length), "width": str(self.width)}
        write_parquet(pa.table(columns).replace_schema_metadata(sizes), path)

    @classmethod
    def read(cls, path: Path) -> "PromptTable":
        """Read prompts.parquet.

        Raises:
            ArtifactError: it is missing or corrupt, or was not written by the encode stage.
        """
        import torch  # here: the report checks prompts without it

        rows = read_parquet(path, SCHEMA).to_pylist()
        table = read_parquet(path, ["embedding"])
        vectors = matrix(table["embedding"], f"{path}: column embedding")
        try:
            sizes = {key: int(value) for key, value in (table.schema.metadata or {}).items()}
            shape = (table.num_rows, sizes[b"num_tokens"], sizes[b"width"])
            embeddings = torch.from_numpy(vectors.reshape(shape))
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"{path}: its embeddings don't have the shape that its header says") from error
        check_rows(rows, embeddings.shape[1], path)
        prompts = [Prompt(row["text"], 0, len(row["text"]), row["role"], row["target"], row["pair_id"]) for row in rows]
        tokens = [Tokens(row["first"], row["last"], row["num_tokens"]) for row in rows]
        return cls(prompts, tokens, embeddings)


def fixed_size_lists(values: np.ndarray) -> pa.FixedSizeListArray:
    """Return [num, size] float32 as one Arrow list a row."""
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def matrix(column: pa.ChunkedArray, source: str) -> np.ndarray:
    """Return a column of fixed-size lists as float32 [num, size].

    Raises:
        ArtifactError: it is a column of another type, or holds what is no finite number; it names `source`.
    """
    kind = column.type
    if not (pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32()):
        raise ArtifactError(f"{source}: found {kind}; accepted: fixed_size_list<float>")
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(values) != len(column) * kind.list_size or not np.isfinite(values).all():
        raise ArtifactError(f"{source}: found empty cells, or values that are not finite")
    return values.reshape(len(column), kind.list_size).copy()


def check_rows(rows: Sequence[dict], length: int, path: Path) -> None:
    """Check what the rows of prompts.parquet say of each other.

    Args:
        rows: role, text, pair_id, first, last and num_tokens of each.
        length: T, tokens of a prompt with padding.
        path: of the table, for the error.

    Raises:
        ArtifactError: there is no target, one has no anchor or the other way round, or a token is none of its prompt.
    """
    pairs = {role: {row["pair_id"] for row in rows if row["role"] == role} for role in ("target", "anchor")}
    if not pairs["target"]:
        raise ArtifactError(f"{path}: no prompt of a target")
    for one, other in (("a target", "anchor"), ("an anchor", "target")):
        if alone := pairs[one.split()[1]] - pairs[other]:
            raise ArtifactError(f"{path}: pair_id: found {min(alone)}, {one}'s prompt without its {other}'s")
    for row in rows:
        last, empty = row["last"], row["role"] == "preserve"  # a preserved text may be empty
        if not (1 <= row["first"] <= last + empty and last < row["num_tokens"] <= length):
            raise ArtifactError(f"{path}: {row['text']!r}: tokens out of range, found {row['first']} to {last}")
