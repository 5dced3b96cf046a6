"""What a target's prompts and samples amount to in equation 7: sums of their own in a file of their own.

The closed form reads samples through these sums alone, so that a preset of many targets is a sum of files, and a target
is added or withdrawn without the others (see `realera.methods.realera.together`).
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from realera.methods.common.closed_form import Gram
from realera.methods.realera.geometry import KINDS, Kind
from realera.methods.realera.moments import Moments
from realera.methods.realera.rows import (
    MINED,
    Grams,
    add_rows,
    check_samples,
    meetings,
    sample_rows,
    target_rows,
)
from realera.methods.realera.samples import SampleTable
from realera.settings.config import SamplerParams
from realera.settings.errors import ArtifactError
from realera.store.artifacts import atomic_path, read_safetensors, safetensors_metadata, write_safetensors
from realera.text.prompt_table import PromptTable
from realera.text.spans import Pair

ROWS_AT_ONCE = 512
TARGETS_AT_ONCE = 16
"""Whose sums are held at once where samples are read, which do not lie in the order of targets."""

Expected = Mapping[Kind, Moments]
"""Kind -> the moments at every perturbed token; kinds that are sampled have none."""

Blocks = Callable[[], Iterable[SampleTable]]
"""Reads all samples, block by block."""


@dataclass(frozen=True)
class Tokens:
    """Erased tokens with the moments around them: fewer numbers than their sums where they are fewer than d.

    Attributes:
        sources: e, float32 [n, d].
        anchors: e*, float32 [n, d].
        expected: the moments; every kind that is mined has them.
    """

    sources: torch.Tensor
    anchors: torch.Tensor
    expected: Expected

    def add_to(self, grams: Mapping[str, Gram]) -> None:
        """Add the tokens and what samples around them average to."""
        add_rows(grams, {"target": (self.sources, self.anchors)})
        add_expected(grams, self.sources, self.anchors, self.expected)


@dataclass(frozen=True)
class Matrices:
    """Sums as matrices.

    Attributes:
        grams: by group, those of MINED.
    """

    grams: Grams

    def add_to(self, grams: Mapping[str, Gram]) -> None:
        """Add the sums."""
        for name, gram in self.grams.items():
            grams[name].merge(gram)


@dataclass(frozen=True)
class TargetSums:
    """The sums of one target.

    Attributes:
        target: its name.
        content: SHA-256 of what they are the sums of: the embeddings of the erased tokens and of their anchors', and
            the sampler's parameters.
        form: how they are kept, whichever is smaller.
    """

    target: str
    content: str
    form: Tokens | Matrices

    def grams(self) -> Grams:
        """Return the sums as matrices, by group."""
        if isinstance(self.form, Matrices):
            return self.form.grams
        found = no_grams(self.form.sources.shape[1])
        self.form.add_to(found)
        return found


def by_target(table: PromptTable, span: str) -> dict[str, list[Pair]]:
    """Return the pairs of prompts of each target, targets and pairs in the table's order."""
    found: dict[str, list[Pair]] = {}
    for pair in table.pairs(span):
        found.setdefault(table.prompts[pair.target_id].target, []).append(pair)
    return found


def no_grams(width: int) -> Grams:
    """Return sums of nothing."""
    return {name: Gram(width, stays=name == "beyond") for name in MINED}


def target_sums(table: PromptTable, params: SamplerParams, expected: Expected, blocks: Blocks) -> Iterator[TargetSums]:
    """Yield the sums of each target.

    Args:
        table: the prompts.
        params: by which was mined.
        expected: the moments at each token, in the order of `realera.methods.realera.perturb.pair_rows`.
        blocks: of the samples.

    Raises:
        ArtifactError: the samples are not of these prompts.
    """
    pairs, rows_of = by_target(table, params.span), _rows_of(table.pairs(params.span))
    names, is_sampled = iter(pairs), any(0 < num < math.inf for num in (params.M, params.N))
    while some := list(islice(names, TARGETS_AT_ONCE)):
        found = []
        for target in some:
            rows = target_rows(table, pairs[target])
            own = torch.cat([rows_of[pair.target_id] for pair in pairs[target]])
            tokens = Tokens(*rows, {kind: every.part(own) for kind, every in expected.items()})
            found.append(TargetSums(target, content(*rows, params), _smaller(tokens, is_sampled)))
        if is_sampled:
            _add_samples(found, table, pairs, blocks)
        yield from found


def _rows_of(pairs: Sequence[Pair]) -> dict[int, torch.Tensor]:
    """Return which rows of all pairs' tokens, one after the other, are those of a target's prompt."""
    lengths = [len(pair.tokens) for pair in pairs]
    rows = torch.arange(sum(lengths)).split(lengths)
    return {pair.target_id: own for pair, own in zip(pairs, rows, strict=True)}


def total_sums(table: PromptTable, params: SamplerParams, expected: Expected, blocks: Blocks) -> Grams:
    """Return the sums over all targets; see `target_sums`."""
    return add_all(target_sums(table, params, expected, blocks), table.width)


def add_all(found: Iterable[TargetSums], width: int) -> Grams:
    """Return the sum; tokens of several targets are multiplied together, which few at once would be slow for."""
    total, waiting = no_grams(width), list[Tokens]()
    for each in found:
        if isinstance(each.form, Matrices):
            each.form.add_to(total)
            continue
        if waiting and waiting[0].expected.keys() != each.form.expected.keys():
            _joined(waiting).add_to(total)
            waiting = []
        waiting.append(each.form)
        if sum(len(tokens.sources) for tokens in waiting) >= ROWS_AT_ONCE:
            _joined(waiting).add_to(total)
            waiting = []
    if waiting:
        _joined(waiting).add_to(total)
    return total


def _joined(parts: Sequence[Tokens]) -> Tokens:
    """Put tokens, of the same kinds, one after the other."""
    expected = {kind: Moments.joined([part.expected[kind] for part in parts]) for kind in parts[0].expected}
    sources, anchors = (torch.cat([getattr(part, name) for part in parts]) for name in ("sources", "anchors"))
    return Tokens(sources, anchors, expected)


def _smaller(tokens: Tokens, is_sampled: bool) -> Tokens | Matrices:
    """Return tokens as they are where they are fewer than a matrix has rows, and nothing is to be added to them."""
    if not is_sampled and len(tokens.sources) < tokens.sources.shape[1]:
        return tokens
    return Matrices(TargetSums("", "", tokens).grams())


def add_expected(grams: Mapping[str, Gram], sources: torch.Tensor, anchors: torch.Tensor, expected: Expected) -> None:
    """Add what infinitely many samples around tokens average to; each token counts as one row.

    Args:
        grams: neighbor and beyond, changed.
        sources: e, [n, d].
        anchors: e*, [n, d].
        expected: the moments at these tokens.
    """
    for start in range(0, len(sources), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        e, meets = sources[rows].double(), anchors[rows].double()
        for kind, found in expected.items():
            _add_kind(grams[kind], e, meets, found.part(rows))


def _add_kind(gram: Gram, e: torch.Tensor, anchors: torch.Tensor, m: Moments) -> None:
    """Add the expectations that `realera.methods.realera.moments` states, over a few tokens."""
    length = e.norm(dim=1)
    along = 1 + (2 * m.along + (m.along_squared - m.across_squared) / length) / length
    gram.source.addmm_((along[:, None] * e).T, e)
    gram.source.diagonal().add_(m.across_squared.sum())
    gram.num_rows += len(e)
    if not gram.stays:
        tolerance = m.anchor_radius * (m.direction + (m.radius_along - m.radius_across) / length) / length
        wanted = (1 + m.along / length)[:, None] * anchors + tolerance[:, None] * e
        gram.cross.addmm_(wanted.T, e)
        gram.cross.diagonal().add_((m.anchor_radius * m.radius_across).sum())


def _add_samples(found: list[TargetSums], table: PromptTable, pairs: Mapping[str, list[Pair]], blocks: Blocks) -> None:
    """Add the samples around the tokens of some targets; those of others are passed over."""
    meets = meetings(table, [pair for own in pairs.values() for pair in own])
    place = {target: index for index, target in enumerate(pairs)}
    owner_p = np.full(len(table.prompts), -1)
    for target, own in pairs.items():
        owner_p[[pair.target_id for pair in own]] = place[target]
    for block in blocks():
        check_samples(table, block, meets)
        owner = owner_p[block.prompt_id]
        for each in found:
            own_rows = owner == place[each.target]
            own_block = block if own_rows.all() else block.part(own_rows)
            add_rows(each.grams(), sample_rows(table, own_block, meets))


def content(sources: torch.Tensor, anchors: torch.Tensor, params: SamplerParams) -> str:
    """Return 64 hex digits of what a target's sums are the sums of."""
    digest = hashlib.sha256(json.dumps(params.model_dump(mode="json"), sort_keys=True).encode())
    for rows in (sources, anchors):
        digest.update(rows.contiguous().numpy().tobytes())
    return digest.hexdigest()


# --- files


def file_name(target: str) -> str:
    """Return the name of a target's file: readable, and no other target's."""
    words = re.sub(r"[^a-z0-9]+", "-", target.lower()).strip("-")[:40]
    return f"{words}-{hashlib.sha256(target.encode()).hexdigest()[:8]}.safetensors"


def write_sums(found: Iterable[TargetSums], folder: Path) -> None:
    """Write a file for each target; what the folder held before is gone."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for each in found:
            write_target(each, temporary / file_name(each.target))


def write_target(found: TargetSums, path: Path) -> None:
    """Write a target's sums.

    As matrices: source and cross of each group that has rows, float64 [d, d]. As tokens: source and anchor, float32
    [n, d], and for each kind that is mined its moments, float64 [8, n].
    """
    form = found.form
    if isinstance(form, Tokens):
        tensors = {"source": form.sources, "anchor": form.anchors}
        tensors |= {kind: each.stacked() for kind, each in form.expected.items()}
        rows = {name: len(form.sources) for name in ("target", *form.expected)}
    else:
        grams = {name: gram for name, gram in form.grams.items() if gram.num_rows}
        tensors = {f"{name}.source": gram.source for name, gram in grams.items()}
        tensors |= {f"{name}.cross": gram.cross for name, gram in grams.items() if not gram.stays}
        rows = {name: gram.num_rows for name, gram in grams.items()}
    about = {"target": found.target, "content": found.content, "rows": json.dumps(rows, sort_keys=True)}
    write_safetensors(tensors, path, about)


def read_target(path: Path) -> TargetSums:
    """Read a target's sums.

    Raises:
        ArtifactError: the file is missing or corrupt, or holds something else.
    """
    tensors = read_safetensors(path)
    about = safetensors_metadata(path)
    try:
        form = _tokens(tensors) if "anchor" in tensors else _matrices(tensors, json.loads(about["rows"]))
        return TargetSums(about["target"], about["content"], form)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ArtifactError(f"{path}: found no sums of a target; mine makes it anew") from error


def read_sums(folder: Path, table: PromptTable, params: SamplerParams) -> Grams:
    """Return the sums over all targets of a table.

    Raises:
        ArtifactError: a target's file is missing or corrupt, or is of other prompts or of another sampler.
    """
    pairs = by_target(table, params.span)
    return add_all((_verified(folder, table, params, *each) for each in pairs.items()), table.width)


def read_verified(folder: Path, table: PromptTable, params: SamplerParams, target: str) -> TargetSums:
    """Return the sums of one target of a table.

    Raises:
        ArtifactError: see `read_sums`; also where the table has no such target.
    """
    pairs = by_target(table, params.span).get(target)
    if pairs is None:
        raise ArtifactError(f"prompts.parquet: found no prompt of {target!r}; encode makes it anew")
    return _verified(folder, table, params, target, pairs)


def _verified(
    folder: Path, table: PromptTable, params: SamplerParams, target: str, pairs: Sequence[Pair]
) -> TargetSums:
    path = folder / file_name(target)
    found = read_target(path)
    if (found.target, found.content) != (target, content(*target_rows(table, pairs), params)):
        raise ArtifactError(f"{path}: not of this prompts.parquet and sampler; mine makes it anew")
    return found


def _tokens(tensors: Mapping[str, torch.Tensor]) -> Tokens:
    sources, anchors = tensors["source"], tensors["anchor"]
    expected = {kind: Moments(*_checked(tensors[kind], torch.float64)) for kind in KINDS if kind in tensors}
    is_whole = all(len(each.along) == len(sources) for each in expected.values())
    if not is_whole or sources.ndim != 2 or sources.shape != anchors.shape:
        raise ValueError("tokens and moments of other numbers")
    return Tokens(_checked(sources, torch.float32), _checked(anchors, torch.float32), expected)


def _matrices(tensors: Mapping[str, torch.Tensor], rows: Mapping[str, int]) -> Matrices:
    width = len(tensors["target.source"])
    grams = no_grams(width)
    for name, gram in grams.items():
        if name not in rows:
            continue
        stays, gram.num_rows = gram.stays, int(rows[name])
        gram.source = _checked(tensors[f"{name}.source"], torch.float64)
        gram.cross = gram.source if stays else _checked(tensors[f"{name}.cross"], torch.float64)
        if gram.source.shape != (width, width) or gram.cross.shape != (width, width):
            raise ValueError("matrices of other sizes")
    return Matrices(grams)


def _checked(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if values.dtype != dtype or not torch.isfinite(values).all():
        raise ValueError(f"no finite {dtype}")
    return values
