"""What the evaluation draws, and drawing it on several processes, resumably."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from PIL import Image
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

from pretrain.config import Evaluate
from pretrain.precision import working_dtype
from pretrain.training import keep_freed_memory
from realera.artifacts import read_parquet, write_parquet
from realera.images import encode_png
from realera.models import open_pipeline, resolve_device
from realera.sampling import draw

PROMPT = "a photo of the {word}"
SCHEMA = pa.schema(
    [
        ("role", pa.string()),
        ("word", pa.string()),
        ("concept", pa.string()),
        ("tier", pa.string()),
        ("style", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("png", pa.binary()),
    ]
)


@dataclass(frozen=True)
class Subject:
    """One prompt, drawn `num_images` times; `role` says what it measures: name, synonym or style."""

    role: str
    word: str
    concept: str
    tier: str
    style: str | None
    num_images: int

    def prompt(self, style_phrase: str) -> str:
        text = PROMPT.format(word=self.word)
        return text if self.style is None else f"{text} {style_phrase.format(style=self.style)}"


def subjects(vocabulary: dict, params: Evaluate) -> list[Subject]:
    """Every concept's name, the classes' synonyms, and each style on the best known concepts."""
    concepts = vocabulary["concepts"]
    found = [
        Subject("name", name, name, entry["tier"], None, params.images_per_word[entry["tier"]])
        for name, entry in concepts.items()
    ]
    classes = {name: entry for name, entry in concepts.items() if entry["tier"] == "classes"}
    found += [
        Subject("synonym", word, name, "classes", None, params.images_per_word["classes"])
        for name, entry in classes.items()
        for word in entry["synonyms"]
    ]
    per_class = max(1, params.images_per_style // len(classes))
    found += [
        Subject("style", name, name, "classes", style, per_class) for style in vocabulary["styles"] for name in classes
    ]
    return found


def draw_all(
    model: Path, plan: Sequence[Subject], style_phrase: str, params: Evaluate, folder: Path, num_processes: int
) -> pa.Table:
    """Draw the plan with `num_processes` CPU processes (one on a GPU); finished parts in `folder` are kept."""
    num_processes = 1 if torch.cuda.is_available() else num_processes
    keep_freed_memory()
    arguments = (num_processes, model, plan, style_phrase, params, folder)
    spawn(_draw_share, arguments, nprocs=num_processes)
    return pa.concat_tables([read_parquet(_part(folder, i)) for i in range(len(_chunks(plan, params)))])


def _chunks(plan: Sequence[Subject], params: Evaluate) -> list[list[tuple[Subject, int]]]:
    """(subject, seed) pairs in batches; a subject's seeds count up from `params.seed`."""
    pairs = [(subject, params.seed + i) for subject in plan for i in range(subject.num_images)]
    return [pairs[i : i + params.batch_size] for i in range(0, len(pairs), params.batch_size)]


def _draw_share(
    rank: int,
    num_processes: int,
    model: Path,
    plan: Sequence[Subject],
    style_phrase: str,
    params: Evaluate,
    folder: Path,
) -> None:
    if num_processes > 1:
        torch.set_num_threads(1)
    device = resolve_device("auto")
    dtype = str(working_dtype(device)).removeprefix("torch.")
    pipe = open_pipeline(model, dtype=dtype, device=str(device))
    chunks = _chunks(plan, params)
    todo = [i for i in range(rank, len(chunks), num_processes) if not _part(folder, i).exists()]
    for i in tqdm(todo, desc="draw", unit="batch", disable=rank > 0, mininterval=5):
        prompts = [subject.prompt(style_phrase) for subject, _ in chunks[i]]
        seeds = [seed for _, seed in chunks[i]]
        images = draw(pipe, prompts, seeds, params.num_inference_steps, params.guidance_scale, params.batch_size)
        rows = [_row(pair, prompt, image) for pair, prompt, image in zip(chunks[i], prompts, images, strict=True)]
        write_parquet(pa.Table.from_pylist(rows, schema=SCHEMA), _part(folder, i))


def _row(pair: tuple[Subject, int], prompt: str, image: Image.Image) -> dict:
    subject, seed = pair
    fields = {name: getattr(subject, name) for name in ("role", "word", "concept", "tier", "style")}
    return {**fields, "prompt": prompt, "seed": seed, "png": encode_png(image)}


def _part(folder: Path, index: int) -> Path:
    return folder / f"part-{index:05d}.parquet"
