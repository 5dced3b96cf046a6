"""From sums to the closed form's weights: what goes into equation 7, and what comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from realera.methods.common.closed_form import Gram, Solution, check_width, solve
from realera.methods.realera.samples import SampleTable
from realera.settings.config import SolverParams
from realera.settings.errors import ArtifactError, ConfigError
from realera.text.prompt_table import PromptTable
from realera.text.spans import Pair

Rows = tuple[torch.Tensor, torch.Tensor]
"""Sources [n, d] and the rows [n, d] whose original K and V they shall have."""

Grams = dict[str, Gram]
"""Group of rows -> its sums."""

MINED = ("target", "neighbor", "beyond")
"""Groups that an erasure's targets bring; the other is what is preserved."""


@dataclass(frozen=True)
class Solved:
    """The new K/V weights, keyed as the old ones, and the content of solve.json."""

    weights: dict[str, torch.Tensor]
    report: dict[str, Any]


def solve_sums(
    weights: Mapping[str, torch.Tensor], table: PromptTable, sums: Mapping[str, Gram], span: str, params: SolverParams
) -> Solved:
    """Solve equation 7 for every K and V matrix.

    Args:
        weights: of all K and V matrices.
        table: the prompts.
        sums: of the groups in MINED, over all targets.
        span: which tokens change.
        params: section `solver` of the parameters.

    Raises:
        ConfigError: the embeddings are not of this model's width, or the ridge is too small.
    """
    check_width(weights, table)
    texts = text_rows(table, span)
    kept = Gram(table.width, stays=True)
    kept.add(texts["preserve"][0])
    grams = {"target": sums["target"], "neighbor": sums["neighbor"], "preserve": kept, "beyond": sums["beyond"]}
    num_rows = {name: gram.num_rows for name, gram in grams.items()}
    if not params.enabled:
        return Solved(dict(weights), _report(weights, dict(weights), texts, num_rows, None))
    solution = solve_grams(grams, params)
    new_weights = {name: solution.apply(weight) for name, weight in weights.items()}
    return Solved(new_weights, _report(weights, new_weights, texts, num_rows, solution))


def text_rows(table: PromptTable, span: str) -> dict[str, Rows]:
    """Return the pairs of equation 7 that come from text, by group.

    target: e -> e*; preserve: p -> p for each token of the preserved prompts.
    """
    preserved = table.preserved()
    return {"target": target_rows(table, table.pairs(span)), "preserve": (preserved, preserved)}


def target_rows(table: PromptTable, pairs: Sequence[Pair]) -> Rows:
    """Return e and e* of each token of some targets' prompts."""
    sources = [table.embeddings[pair.target_id, [own for own, _ in pair.tokens]] for pair in pairs]
    anchors = [table.embeddings[pair.anchor_id, [other for _, other in pair.tokens]] for pair in pairs]
    return torch.cat(sources), torch.cat(anchors)


def sample_rows(table: PromptTable, samples: SampleTable, meets: torch.Tensor) -> dict[str, Rows]:
    """Return the pairs of equation 7 that were mined, by group.

    neighbor: e + eta -> e* + eta'; beyond: e + eta -> e + eta.

    Args:
        table: the prompts.
        samples: around some of their tokens.
        meets: from `meetings`, of the pairs that the samples may belong to.

    Raises:
        ArtifactError: the samples are not of these prompts.
    """
    prompt, token = check_samples(table, samples, meets)
    anchor_prompt, anchor_token = meets[prompt, token].T
    perturbed = table.embeddings[prompt, token] + samples.eta
    tolerated = table.embeddings[anchor_prompt, anchor_token] + samples.anchor_eta()
    near = torch.from_numpy(samples.is_neighbor)
    beyond = perturbed[~near]
    return {"neighbor": (perturbed[near], tolerated[near]), "beyond": (beyond, beyond)}


def check_samples(table: PromptTable, samples: SampleTable, meets: torch.Tensor) -> Rows:
    """Return prompt and token of each sample, int64.

    Raises:
        ArtifactError: they are not of these prompts.
    """
    prompt, token = (torch.from_numpy(column.astype(np.int64)) for column in (samples.prompt_id, samples.token))
    stranger = ((prompt < 0) | (prompt >= meets.shape[0]) | (token < 0) | (token >= meets.shape[1])).any()
    if samples.eta.shape[1] != table.width or stranger or (meets[prompt, token] < 0).any():
        raise ArtifactError("samples.parquet: not made from this prompts.parquet and sampler.span; mine makes it anew")
    return prompt, token


def meetings(table: PromptTable, pairs: Sequence[Pair]) -> torch.Tensor:
    """Return [num_prompts, T, 2]: the anchor's prompt and token that a target's token meets; -1 for none."""
    meets = torch.full((len(table.prompts), table.length, 2), -1)
    for pair in pairs:
        own, other = torch.tensor(pair.tokens).T
        meets[pair.target_id, own, 0] = pair.anchor_id
        meets[pair.target_id, own, 1] = other
    return meets


def add_rows(grams: Mapping[str, Gram], groups: Mapping[str, Rows]) -> None:
    """Add pairs to the sums of their groups."""
    for name, (sources, targets) in groups.items():
        # What shall stay is its own target, the same object: that spares a product of matrices.
        grams[name].add(sources, None if targets is sources else targets)


def solve_grams(grams: Mapping[str, Gram], params: SolverParams) -> Solution:
    """Solve equation 7 with the weights of each group.

    Args:
        grams: target, neighbor, preserve, beyond, in this order.
        params: section `solver` of the parameters.

    Raises:
        ConfigError: the ridge is too small.
    """
    factors = {
        "target": 1.0,
        "neighbor": params.neighbor_weight,
        "preserve": params.lambda1,
        "beyond": params.lambda1 * params.beyond_weight,
    }
    terms = [gram.scaled(factors[name], params.sums == "normalized") for name, gram in grams.items()]
    try:
        return solve(terms, params.ridge)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _report(
    old: Mapping[str, torch.Tensor],
    new: Mapping[str, torch.Tensor],
    texts: Mapping[str, Rows],
    num_rows: Mapping[str, int],
    solution: Solution | None,
) -> dict[str, Any]:
    """Return the content of solve.json; residuals are relative to the wanted outputs' norm."""
    return {
        "rows": dict(num_rows),
        "width": texts["target"][0].shape[1],
        "condition_number": solution.condition_number if solution else None,
        "ridge": solution.ridge if solution else None,
        "layers": [_layer_report(name, old[name], new[name], texts) for name in old],
    }


def _layer_report(name: str, old: torch.Tensor, new: torch.Tensor, groups: Mapping[str, Rows]) -> dict[str, Any]:
    change = float((new - old).norm())
    return {
        "name": name.removesuffix(".weight"),
        "erase_before": _residual(old, old, groups["target"]),
        "erase_after": _residual(new, old, groups["target"]),
        "preserve_before": 0.0,
        "preserve_after": _residual(new, old, groups["preserve"]),
        "change_norm": change,
        "relative_change": change / float(old.norm()),
    }


def _residual(weight: torch.Tensor, original: torch.Tensor, rows: Rows) -> float:
    """Return sqrt(sum |W e - W0 e*|^2 / sum |W0 e*|^2)."""
    sources, targets = rows
    wanted = targets @ original.T
    return float((sources @ weight.T - wanted).norm() / wanted.norm()) if len(wanted) else 0.0
