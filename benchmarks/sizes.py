"""Sizes of Stable Diffusion v1.4, with random numbers of the real ones' length in place of weights and text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from realera.store import seeds
from realera.text.prompt_table import PromptTable
from realera.text.prompts import Prompt
from realera.text.spans import Tokens

PROJECT = Path(__file__).resolve().parent.parent

WIDTH = 768
LENGTH = 77
SPAN = 70
"""Tokens from a concept's last one to the end of the padding, in a template of six words."""

LAYERS = {320: 5, 640: 5, 1280: 6}
"""Channels of a cross-attention layer -> how many layers have them."""

MATRICES = {channels: 2 * count for channels, count in LAYERS.items()}
"""Rows of a matrix -> how many of the 32 K and V matrices have them."""


def tokens(*shape: int, seed: int, width: int = WIDTH) -> torch.Tensor:
    """Return embeddings [*shape, width], as long as a LayerNorm makes them: about the root of the width."""
    return torch.randn(*shape, width, generator=seeds.generator("benchmarks", seed))


def weights(counts: Mapping[int, int] = MATRICES, width: int = WIDTH) -> dict[str, torch.Tensor]:
    """Return float32 matrices [rows, width] by name, `counts` of each number of rows."""
    generator = seeds.generator("benchmarks", "weights")
    return {
        f"{rows}.{index}.weight": torch.randn(rows, width, generator=generator) / width**0.5
        for rows, count in counts.items()
        for index in range(count)
    }


def prompt_table(
    num_pairs: int,
    num_preserved: int = 0,
    width: int = WIDTH,
    seed: int = 0,
    target: str | None = None,
    name_tokens: int = 1,
) -> PromptTable:
    """Return prompts of targets with their anchors, each with SPAN tokens to perturb, and preserved ones.

    Args:
        num_pairs: prompts of targets, and as many of anchors.
        num_preserved: prompts.
        width: of the embeddings.
        seed: of their numbers.
        target: of all prompts; None: each is of a target of its own.
        name_tokens: of a name.
    """
    first = LENGTH - SPAN
    span = Tokens(first, first + name_tokens - 1, first + name_tokens + 1)
    found = [
        Prompt("a photo of the thing", 15, 20, role, target or f"target {pair}", pair)
        for pair in range(num_pairs)
        for role in ("target", "anchor")
    ]
    found += [Prompt(f"kept {index}", 0, 0, "preserve") for index in range(num_preserved)]
    return PromptTable(found, [span] * len(found), tokens(len(found), LENGTH, seed=seed, width=width))


def default(section: str) -> dict[str, Any]:
    """Return a section of the project's params.yaml."""
    values: dict[str, Any] = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))[section]
    return values
