"""UCE, the closed form on names: every K and V matrix W of the cross-attention becomes another.

    W = (s_e sum W0 c* c^T + s_p sum W0 p p^T + lamb W0) (s_e sum c c^T + s_p sum p p^T + lamb I)^-1

c runs over tokens of the targets' prompts, c* over the anchors', p over what is preserved. All matrices share the two
sums, so W = W0 map with one map [d, d]. Two readings of it are published, as the authors' code had it at two times:

| | legacy (2023; what the tables of MACE and RealEra compare with) | current |
|---|---|---|
| tokens of a name | from its last one to the end; of target and anchor, cut to equal length | its last one |
| tokens of what is preserved | all | its last one |
| s_p | max(0.1, 1 / number of preserved texts) | 1 |
| preserved beside the list | "", always | nothing |
"""

from pathlib import Path

import torch

from realera.erasures.artifact import Erasure
from realera.families import cross_attention
from realera.methods.common.closed_form import Gram, Solution, check_width, solve
from realera.methods.seam import Task
from realera.settings.config import UceParams
from realera.settings.errors import ConfigError
from realera.settings.presets import preserved_words
from realera.text.prompt_table import PromptTable
from realera.text.prompts import Prompt
from realera.text.vocabulary import read_concepts

Rows = tuple[torch.Tensor, torch.Tensor]
"""Sources [n, d] and the rows [n, d] whose original K and V they shall have."""

EMPTY = " "
"""What a target becomes where no anchor is taken, as published."""


def erase(task: Task, scratch: Path) -> Erasure:
    """Solve for all K and V matrices.

    Raises:
        ConfigError: `uce.lamb` is too small, or the embeddings are not of this model.
    """
    params = task.params.uce
    table = published_prompts(task) if params.prompts == "names" else task.table
    original = cross_attention.weights(task.pipe.unet)
    check_width(original, table)
    erased, preserved = erased_rows(table, params.reading), preserved_rows(table, params.reading)
    scale = preserve_scale(params, num_preserved(table))
    solution = solve_rows(erased, preserved, scale, params)
    report = {
        "rows": {"target": len(erased[0]), "preserve": len(preserved)},
        "width": table.width,
        "condition_number": solution.condition_number,
        "preserve_scale": scale,
    }
    about = task.describe("uce", original, ("uce",) if params.prompts == "names" else ("encode", "uce"))
    return Erasure(about, {name: solution.apply(weight) for name, weight in original.items()}, report=report)


def published_prompts(task: Task) -> PromptTable:
    """Return targets, anchors and what is preserved as prompts of their names alone."""
    preset, params = task.preset, task.params.uce
    prompts = []
    for pair, (target, anchor) in enumerate(preset.pairs()):
        becomes = anchor if params.anchor == "preset" else EMPTY
        prompts += [_named(target, "target", target, pair), _named(becomes, "anchor", target, pair)]
    texts = [*preserved_words(preset, read_concepts(task.pipe.name_or_path)), *preset.preserve.texts]
    if params.reading == "legacy":
        texts.append("")
    return task.encode([*prompts, *(_named(text, "preserve") for text in dict.fromkeys(texts))])


def erased_rows(table: PromptTable, reading: str) -> Rows:
    """Return the targets' rows c and the anchors' rows c*, each [n, d]."""
    sources, targets = [], []
    for pair in table.pairs("concept"):
        own, other = table.tokens[pair.target_id].last, table.tokens[pair.anchor_id].last
        length = 1 if reading == "current" else table.length - max(own, other)
        sources.append(table.embeddings[pair.target_id, own : own + length])
        targets.append(table.embeddings[pair.anchor_id, other : other + length])
    return torch.cat(sources), torch.cat(targets)


def preserved_rows(table: PromptTable, reading: str) -> torch.Tensor:
    """Return the rows p [n, d] of what is preserved; of a text without a token its first, the start, is the last."""
    if reading == "legacy":
        return table.preserved()
    rows = [(i, table.tokens[i].last) for i, prompt in enumerate(table.prompts) if prompt.role == "preserve"]
    return table.embeddings[[i for i, _ in rows], [last for _, last in rows]]


def num_preserved(table: PromptTable) -> int:
    """Return the number of preserved texts."""
    return sum(prompt.role == "preserve" for prompt in table.prompts)


def preserve_scale(params: UceParams, number: int) -> float:
    """Return s_p for so many preserved texts."""
    if params.preserve_scale is not None:
        return params.preserve_scale
    return 1.0 if params.reading == "current" else max(0.1, 1 / max(1, number))


def solve_rows(erased: Rows, preserved: torch.Tensor, scale: float, params: UceParams) -> Solution:
    """Return the map that all matrices share.

    Raises:
        ConfigError: `uce.lamb` is too small for these rows.
    """
    erase, preserve = Gram(preserved.shape[1]), Gram(preserved.shape[1])
    erase.add(*erased)
    preserve.add(preserved)
    terms = [erase.scaled(params.erase_scale, normalize=False), preserve.scaled(scale, normalize=False)]
    try:
        return solve(terms, params.lamb, key="uce.lamb", relative=False)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _named(text: str, role: str, target: str = "", pair: int = -1) -> Prompt:
    """Return a prompt that is all name."""
    return Prompt(text, 0, len(text), role, target, pair)
