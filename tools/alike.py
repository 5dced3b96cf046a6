"""Names that begin alike: what is kept of the one when the other is erased. docs/method.md has the table.

python -m tools.alike            # all such names of the embedded model; six anchors; eight minutes on two cores
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import typer
from diffusers import StableDiffusionPipeline

import realera
from realera.drawing.batch import draw
from realera.families.stable_diffusion import open_pipeline
from realera.judges.clip import class_probabilities, open_clip
from realera.runtime.console import quiet_libraries
from realera.text.prompt_table import PromptTable
from realera.text.vocabulary import read_concepts

MODEL, JUDGE = "data/models/tiny-sd", "data/models/tiny-clip"
ANCHORS = ("snowflake", "sun", "door", "chair", "star", "tree")


def main(num: int = 8, steps: int = 0) -> None:
    """Print top-1 among all concepts, in percent: of the name that stays and of the one that is erased, by anchor.

    Args:
        num: seeds of each name and anchor.
        steps: of the LoRA; 0: the closed form alone.
    """
    quiet_libraries()
    pipe, (model, processor) = open_pipeline(MODEL), open_clip(JUDGE)
    words = read_concepts(MODEL)
    texts = [f"a photo of the {word}" for word in words]

    def top1(word: str) -> float:
        pictures = list(draw(pipe, [f"a photo of the {word}"] * num, range(num), 20, 5.0))
        best = class_probabilities(model, processor, pictures, texts).argmax(-1)
        return 100 * float((best == words.index(word)).mean())

    print("| erased | kept | kept, every token erased | kept | erased |\n|---|---|---|---|---|")
    for target, kept in pairs(words, pipe.tokenizer):
        rows = [_figures(pipe, target, kept, anchor, steps, top1) for anchor in ANCHORS]
        cells = [f"{sum(column) / len(rows):.0f} ({_shown(column)})" for column in zip(*rows, strict=True)]
        print(f"| {target} | {kept} | {' | '.join(cells)} |", flush=True)


def _figures(
    pipe: StableDiffusionPipeline, target: str, kept: str, anchor: str, steps: int, top1: Callable[[str], float]
) -> list[float]:
    """Return top-1 of the name that stays with every token of the target erased; of both as it is done."""
    figures = []
    variants: tuple[AbstractContextManager[object], ...] = (patch.object(PromptTable, "shared", {}), nullcontext())
    for how in variants:
        with how, warnings.catch_warnings(action="ignore"):
            erasure = realera.erase(pipe, target, anchor, settings={"lora.steps": steps}, progress=False)
        erasure.apply(pipe)
        figures.append(top1(kept))
        left = top1(target)
        erasure.remove(pipe)
    return [*figures, left]


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


def pairs(words: list[str], tokenizer: object) -> Iterator[tuple[str, str]]:
    """Yield two names whose first tokens are the same, both ways round."""
    first = {word: tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words}  # type: ignore[operator]
    for target in words:
        yield from ((target, other) for other in words if other != target and first[other] == first[target])


if __name__ == "__main__":
    typer.run(main)
