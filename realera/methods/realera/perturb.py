"""Algorithm 1 on the prompts of an erasure: which tokens, how many samples, from where."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from realera.methods.realera import feasibility, mining
from realera.methods.realera.geometry import KINDS, Kind
from realera.methods.realera.moments import Moments, moments
from realera.methods.realera.samples import SampleTable, join
from realera.settings.config import SamplerParams
from realera.settings.errors import ArtifactError
from realera.store import seeds
from realera.text.prompt_table import PromptTable
from realera.text.spans import Pair, Tokens, aligned

Perturb = Callable[[int, torch.Generator], tuple[torch.Tensor | None, torch.Tensor | None]]
Encoded = tuple[Sequence[Tokens], torch.Tensor]
"""Where the names lie in some prompts, and the prompts' embeddings [num, T, d]."""


def thresholds(params: SamplerParams) -> mining.Thresholds:
    """Return the sampler's thresholds as `mining` takes them."""
    names = ("D1", "D1_anchor", "D2", "S1", "S2", "units", "direction", "noise")
    return mining.Thresholds(**{name: getattr(params, name) for name in names})


def sample(table: PromptTable, params: SamplerParams) -> tuple[SampleTable, dict[str, float]]:
    """Draw M neighbors (none where they come from text) and N beyond samples for each target's prompt.

    Returns:
        The samples, and the share of Algorithm 1's proposals that it would accept, by kind.

    Raises:
        MiningError: no sample can fulfil the thresholds; decided before sampling.
    """
    blocks = list(sample_blocks(table, params))
    found = Summary(table)
    for block in blocks:
        found.add(*block)
    return join([samples for samples, _ in blocks]), found.acceptance()


def sample_blocks(table: PromptTable, params: SamplerParams) -> Iterator[tuple[SampleTable, float]]:
    """Draw as `sample` does, in blocks, each with its share of accepted proposals; memory doesn't grow with M and N.

    Without samples of a kind its one block is empty.
    """
    rows, prompt_ids, tokens = pair_rows(table, table.pairs(params.span))
    limits, prompt_r = thresholds(params), torch.from_numpy(prompt_ids)
    check_limits(rows, params, prompt_r)
    for kind in KINDS:
        num = num_drawn(params, kind)
        first = 0
        # A generator of its own for each kind: another M leaves the beyond samples as they are.
        for found in mining.blocks(kind, rows, prompt_r, num, limits, seeds.generator(params.seed, kind)):
            yield _flat(found, first, prompt_ids, tokens, kind == "neighbor"), found.acceptance
            first += len(found.radius)


def check_limits(rows: torch.Tensor, params: SamplerParams, prompt_r: torch.Tensor) -> None:
    """Refuse thresholds that Algorithm 1 would not come to an end with, sampled or not; see `check_feasible`."""
    near, far = (int(number(params, kind) > 0) for kind in KINDS)
    feasibility.check_feasible(rows, thresholds(params), near, far, prompt_r)


def number(params: SamplerParams, kind: Kind) -> float:
    """Return how many samples of noise a kind has, maybe infinitely many; neighbors from text are none."""
    if kind == "beyond":
        return params.N
    return params.M if params.source == "noise" else 0


def num_drawn(params: SamplerParams, kind: Kind) -> int:
    """Return how many samples of a kind are drawn: none where their expectation stands for all."""
    wanted = number(params, kind)
    return 0 if wanted == math.inf else int(wanted)


def is_exact(params: SamplerParams, kind: Kind) -> bool:
    """Say whether a kind's expectation stands for its samples."""
    return number(params, kind) == math.inf


def expect(table: PromptTable, params: SamplerParams) -> dict[Kind, Moments]:
    """Return the moments of the kinds that are exact, at each perturbed token.

    Raises:
        MiningError: no sample can fulfil the thresholds, or there is no closed form.
    """
    rows, _, _ = pair_rows(table, table.pairs(params.span))
    return {kind: moments(kind, rows, thresholds(params)) for kind in KINDS if is_exact(params, kind)}


def perturber(table: PromptTable, samples: SampleTable, params: SamplerParams) -> Perturb:
    """Return a function (pair, generator) -> a fresh neighbor and a fresh beyond sample [T, d].

    Training mines anew in every step (Algorithm 1, step 28). Neighbors from text are not drawn:
    one of those that were mined is taken. None stands for a kind that is switched off.

    Raises:
        ArtifactError: the samples are not of these prompts.
    """
    pairs, limits = table.pairs(params.span), thresholds(params)
    places = [pair_rows(table, [pair]) for pair in pairs]
    mined = _neighbors_by_prompt(samples) if params.source == "text" else {}
    if params.source == "text" and params.M > 0:
        _check_mined(mined, table, pairs)

    def perturb(index: int, generator: torch.Generator) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        pair = pairs[index]
        rows, prompt_ids, tokens = places[index]
        prompt_r = torch.from_numpy(prompt_ids)

        def moved(eta_rd: torch.Tensor) -> torch.Tensor:
            embedding = table.embeddings[pair.target_id].clone()
            embedding[torch.from_numpy(tokens)] += eta_rd
            return embedding

        near = far = None
        if params.M > 0 and params.source == "text":
            chosen = mined[pair.target_id]
            near = moved(chosen[int(torch.randint(len(chosen), (), generator=generator))])
        elif params.M > 0:
            near = moved(mining.sample_neighbors(rows, prompt_r, 1, limits, generator).eta[0])
        if params.N > 0:
            far = moved(mining.sample_beyond(rows, prompt_r, 1, limits, generator).eta[0])
        return near, far

    return perturb


def rank_phrases(target: Encoded, phrases: Encoded, span: str) -> list[int]:
    """Return the phrases' indices, nearest to the target first.

    The distance is the mean over the target's tokens of |e_phrase - e| / |e|, tokens aligned as
    for an anchor.

    Args:
        target: one prompt with the target's name.
        phrases: the same template with each phrase.
        span: which tokens count.
    """
    (own,), embedding = target[0], target[1][0]
    distances = []
    for tokens, other in zip(*phrases, strict=True):
        source, meets = np.array(aligned(own, tokens, span, len(embedding))).T
        difference = (other[meets] - embedding[source]).norm(dim=1) / embedding[source].norm(dim=1)
        distances.append(float(difference.mean()))
    return sorted(range(len(distances)), key=distances.__getitem__)


def text_neighbors(table: PromptTable, pair: Pair, phrases: Encoded, span: str) -> SampleTable:
    """Return a neighbor for each phrase: from the target's prompt to the phrase's, token by token.

    Args:
        table: holds the target's prompt.
        pair: the target's prompt.
        phrases: the prompt's template with each phrase.
        span: which tokens are moved.
    """
    parts = []
    for index, (tokens, other) in enumerate(zip(*phrases, strict=True)):
        changed = {own for own, _ in pair.tokens}
        both = aligned(table.tokens[pair.target_id], tokens, span, table.length)
        own, meets = np.array([each for each in both if each[0] in changed]).T
        source = table.embeddings[pair.target_id, own]
        eta = other[meets] - source
        num = len(own)
        parts.append(
            SampleTable(
                sample_id=np.full(num, index, np.int32),
                prompt_id=np.full(num, pair.target_id, np.int32),
                token=own.astype(np.int32),
                is_neighbor=np.ones(num, bool),
                radius=eta.norm(dim=1).numpy(),
                # So a phrase is sent to the anchor itself; only noise is sent near it.
                anchor_radius=np.zeros(num, np.float32),
                cosine=torch.cosine_similarity(source, other[meets]).numpy(),
                eta=eta,
            )
        )
    return join(parts)


class Summary:
    """What mining.json says of the samples: how many, and where they lie; fed a block after the other."""

    def __init__(self, table: PromptTable) -> None:
        self._norms = table.embeddings.norm(dim=2).numpy()
        # The widest span, so that token_norm says the same whatever sampler.span is.
        rows, _, _ = pair_rows(table, table.pairs("concept_to_end"))
        self._spread = rows.norm(dim=1)
        self._parts: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}

    def add(self, samples: SampleTable, acceptance: float = math.nan) -> None:
        """Count a block. A sample's rows are all in one block.

        Args:
            samples: of one kind or both.
            acceptance: share of Algorithm 1's proposals that it would accept; nan where none were made.
        """
        norms = self._norms[samples.prompt_id.astype(np.int64), samples.token.astype(np.int64)]
        for kind, mask in zip(KINDS, (samples.is_neighbor, ~samples.is_neighbor), strict=True):
            if mask.any():
                self._parts[kind].append(_ranges(samples, norms, mask) | {"acceptance": acceptance})

    def add_expected(self, kind: Kind, found: Moments, rows: torch.Tensor) -> None:
        """Count infinitely many samples around each of the tokens [R, d]."""
        length, width = rows.double().norm(dim=1), rows.shape[1]
        distance = found.distance(width)
        values = {"radius": distance, "relative_radius": distance / length}
        values["cosine"] = found.typical_cosine(length, width)
        entry = {name: [float(value.min()), float(value.max())] for name, value in values.items()}
        acceptance = float(found.acceptance.mean())
        self._parts[kind] = [{"num_samples": "inf", "num_rows": len(rows), "acceptance": acceptance, **entry}]

    def acceptance(self) -> dict[str, float]:
        """Return the share of accepted proposals by kind; nan without any."""
        return {kind: _weighted(self._parts[kind]) for kind in KINDS}

    def report(self, source: str) -> dict[str, Any]:
        """Return the content of mining.json."""
        return {
            **{kind: _merged(parts) for kind, parts in self._parts.items()},
            "token_norm": [float(self._spread.min()), float(self._spread.median()), float(self._spread.max())],
            "source": source,
        }


def _ranges(samples: SampleTable, norms: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    values = {"radius": samples.radius, "relative_radius": samples.radius / norms, "cosine": samples.cosine}
    # A sample has a row for each of its tokens, and all prompts share the samples' numbers.
    counted = np.unique(np.stack([samples.prompt_id[mask], samples.sample_id[mask]]), axis=1)
    return {
        "num_samples": counted.shape[1],
        "num_rows": int(mask.sum()),
        **{name: [float(value[mask].min()), float(value[mask].max())] for name, value in values.items()},
    }


def _weighted(parts: Sequence[dict[str, Any]]) -> float:
    """Return the mean acceptance, each part counted by its rows."""
    total = sum(part["num_rows"] for part in parts)
    return sum(part["acceptance"] * part["num_rows"] for part in parts) / total if total else math.nan


def _merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if not parts:
        return None
    if parts[0]["num_samples"] == "inf":
        return parts[0]
    acceptance = _weighted(parts)
    return {
        "num_samples": sum(part["num_samples"] for part in parts),
        "num_rows": sum(part["num_rows"] for part in parts),
        "acceptance": acceptance if np.isfinite(acceptance) else None,
        **{
            name: [min(part[name][0] for part in parts), max(part[name][1] for part in parts)]
            for name in ("radius", "relative_radius", "cosine")
        },
    }


def pair_rows(table: PromptTable, pairs: Sequence[Pair]) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Return the tokens to perturb: embeddings [R, d], prompt of each [R], token of each [R]."""
    places = np.array([(pair.target_id, own) for pair in pairs for own, _ in pair.tokens], np.int64)
    return table.embeddings[places[:, 0], places[:, 1]], places[:, 0], places[:, 1]


def _flat(
    samples: mining.Samples, first: int, prompt_ids: np.ndarray, tokens: np.ndarray, is_neighbor: bool
) -> SampleTable:
    """Turn [num, R] into one row a sample and token; samples count from `first`."""
    num, rows = samples.radius.shape
    return SampleTable(
        sample_id=np.repeat(np.arange(first, first + num, dtype=np.int32), rows),
        prompt_id=np.tile(prompt_ids.astype(np.int32), num),
        token=np.tile(tokens.astype(np.int32), num),
        is_neighbor=np.full(num * rows, is_neighbor),
        radius=samples.radius.reshape(-1).numpy(),
        anchor_radius=samples.anchor_radius.reshape(-1).numpy(),
        cosine=samples.cosine.reshape(-1).numpy(),
        eta=samples.eta.reshape(num * rows, samples.eta.shape[-1]),
    )


def _check_mined(mined: dict[int, list[torch.Tensor]], table: PromptTable, pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        wanted = (len(pair.tokens), table.width)
        if not mined.get(pair.target_id) or any(eta.shape != wanted for eta in mined[pair.target_id]):
            raise ArtifactError("samples.parquet: not made from this prompts.parquet and sampler; mine makes it anew")


def _neighbors_by_prompt(samples: SampleTable) -> dict[int, list[torch.Tensor]]:
    """Return each prompt's neighbors, eta [K, d] in the order of tokens."""
    found: dict[int, dict[int, list[int]]] = {}
    for row in np.flatnonzero(samples.is_neighbor).tolist():
        prompt = found.setdefault(int(samples.prompt_id[row]), {})
        prompt.setdefault(int(samples.sample_id[row]), []).append(row)
    return {prompt: [samples.eta[rows] for rows in by_sample.values()] for prompt, by_sample in found.items()}
