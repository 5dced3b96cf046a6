"""From prompts and samples to the closed form's weights: what goes into equation 7's sums."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from realera.closed_form import Gram, Solution, solve
from realera.config import SolverParams
from realera.errors import ArtifactError, ConfigError
from realera.prompt_table import Pair, PromptTable
from realera.samples import SampleTable

Rows = tuple[torch.Tensor, torch.Tensor]
"""Sources [n, d] and the rows [n, d] whose original K and V they shall have."""


@dataclass(frozen=True)
class Erasure:
    """The new K/V weights, keyed as the old ones, and the content of solve.json."""

    weights: dict[str, torch.Tensor]
    report: dict[str, Any]


def erase(
    weights: Mapping[str, torch.Tensor], table: PromptTable, samples: SampleTable, span: str, params: SolverParams
) -> Erasure:
    """Solve equation 7 for every K and V matrix.

    Raises:
        ConfigError: the embeddings are not of this model's width, or the ridge is too small.
        ArtifactError: the samples are not of these prompts.
    """
    check_width(weights, table)
    groups = equation_rows(table, samples, span)
    if not params.enabled:
        return Erasure(dict(weights), _report(weights, dict(weights), groups, None))
    solution = _solve(groups, table.width, params)
    new_weights = {name: solution.apply(weight) for name, weight in weights.items()}
    return Erasure(new_weights, _report(weights, new_weights, groups, solution))


def equation_rows(table: PromptTable, samples: SampleTable, span: str) -> dict[str, Rows]:
    """Return the pairs of equation 7, by group.

    target: e -> e*; neighbor: e + eta -> e* + eta'; preserve: p -> p for each token of the
    preserved prompts; beyond: e + eta -> e + eta.
    """
    pairs = table.pairs(span)
    source, anchor = _token_rows(table, pairs)
    perturbed, tolerated = _sample_rows(table, samples, pairs)
    near, far = torch.from_numpy(samples.is_neighbor), torch.from_numpy(~samples.is_neighbor)
    preserved = table.preserved()
    return {
        "target": (source, anchor),
        "neighbor": (perturbed[near], tolerated[near]),
        "preserve": (preserved, preserved),
        "beyond": (perturbed[far], perturbed[far]),
    }


def _token_rows(table: PromptTable, pairs: list[Pair]) -> Rows:
    """Return the targets' tokens and the anchors' tokens that they meet, [n, d] each."""
    sources = [table.embeddings[pair.target_id, [own for own, _ in pair.tokens]] for pair in pairs]
    anchors = [table.embeddings[pair.anchor_id, [other for _, other in pair.tokens]] for pair in pairs]
    return torch.cat(sources), torch.cat(anchors)


def _sample_rows(table: PromptTable, samples: SampleTable, pairs: list[Pair]) -> Rows:
    """Return e + eta and e* + eta' of every sample, [num_samples, d] each."""
    meets = {(pair.target_id, own): (pair.anchor_id, other) for pair in pairs for own, other in pair.tokens}
    own = list(zip(samples.prompt_id.tolist(), samples.token.tolist(), strict=True))
    if samples.eta.shape[1] != table.width or not meets.keys() >= set(own):
        raise ArtifactError("samples.parquet: not made from this prompts.parquet and sampler.span; mine makes it anew")
    other = [meets[place] for place in own]
    return (
        _at(table, own) + samples.eta,
        _at(table, other) + samples.anchor_eta(),
    )


def _at(table: PromptTable, places: list[tuple[int, int]]) -> torch.Tensor:
    index = torch.tensor(places, dtype=torch.long).reshape(-1, 2)
    return table.embeddings[index[:, 0], index[:, 1]]


def _solve(groups: Mapping[str, Rows], width: int, params: SolverParams) -> Solution:
    factors = {
        "target": 1.0,
        "neighbor": params.neighbor_weight,
        "preserve": params.lambda1,
        "beyond": params.lambda1 * params.beyond_weight,
    }
    terms = []
    for name, (sources, targets) in groups.items():
        gram = Gram(width)
        gram.add(sources, None if targets is sources else targets)
        terms.append(gram.scaled(factors[name], params.sums == "normalized"))
    try:
        return solve(terms, params.ridge)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _report(
    old: Mapping[str, torch.Tensor],
    new: Mapping[str, torch.Tensor],
    groups: Mapping[str, Rows],
    solution: Solution | None,
) -> dict[str, Any]:
    """Return the content of solve.json; residuals are relative to the wanted outputs' norm."""
    return {
        "rows": {name: len(sources) for name, (sources, _) in groups.items()},
        "width": groups["target"][0].shape[1],
        "condition_number": solution.condition_number if solution else None,
        "ridge": solution.ridge if solution else None,
        "layers": [_layer_report(name, old[name], new[name], groups) for name in old],
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


def check_width(weights: Mapping[str, torch.Tensor], table: PromptTable) -> None:
    """Refuse prompts that another model's text encoder has read.

    Raises:
        ConfigError: the embeddings are not as wide as the K and V matrices take them.
    """
    name, weight = next(iter(weights.items()))
    if weight.shape[1] != table.width:
        raise ConfigError(
            f"model.id: {name} reads embeddings of width {weight.shape[1]}, prompts.parquet has {table.width}; "
            "they are of different models"
        )
