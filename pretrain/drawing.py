"""What the evaluation draws: every word, and each style on the best known concepts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pretrain.captions import PROMPT
from pretrain.config import Evaluate
from pretrain.precision import working_dtype
from realera.drawing.many import Source, draw_all
from realera.drawing.subjects import Drawing, Settings
from realera.drawing.subjects import Subject as Drawn
from realera.runtime.devices import resolve_device
from realera.settings.config import GenerateParams, ImageCounts, ModelParams


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


def draw_subjects(
    model: Path, plan: Sequence[Subject], style_phrase: str, params: Evaluate, folder: Path, num_processes: int
) -> pa.Table:
    """Draw the plan, a subject's seeds counting up from `params.seed`.

    Args:
        model: folder of the generator.
        plan: what to draw.
        style_phrase: holds {style}.
        params: seed, steps, guidance and batch size.
        folder: scratch; finished batches in it are kept and not drawn again.
        num_processes: on a CPU; a GPU uses one.

    Returns:
        One row an image, in the plan's order: role, word, concept, tier, style, prompt, seed, png.
    """
    pairs = [(subject, params.seed + i) for subject in plan for i in range(subject.num_images)]
    device = str(resolve_device("auto"))
    dtype = str(working_dtype(device)).removeprefix("torch.")
    where = {"id": str(model), "revision": None, "config": None, "dtype": dtype, "device": device}
    drawings = [_drawing(subject, seed, style_phrase, params.guidance_scale) for subject, seed in pairs]
    images = draw_all(
        drawings, Source(ModelParams.model_validate(where)), _generate_params(params, num_processes), folder
    )
    about = {
        name: pa.array([getattr(subject, name) for subject, _ in pairs], pa.string())
        for name in ("role", "word", "concept", "tier", "style")
    }
    return pa.table(about | {name: images[name] for name in ("prompt", "seed", "png")})


def _drawing(subject: Subject, seed: int, style_phrase: str, guidance_scale: float) -> Drawing:
    prompt = subject.prompt(style_phrase)
    return Drawing(
        Drawn(subject.role, subject.word, subject.concept, (prompt,)), prompt, seed, Settings(guidance_scale)
    )


def _generate_params(params: Evaluate, num_processes: int) -> GenerateParams:
    """Say what `draw_all` reads; counts of images are the plan's."""
    return GenerateParams(
        scheduler="model",
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        batch_size=params.batch_size,
        num_threads=1,
        num_processes=num_processes,
        dtype="model",
        attention_slicing=False,
        vae_slicing=False,
        vae_tiling=False,
        offload="none",
        seed=params.seed,
        row_settings="honor",
        images=ImageCounts(**dict.fromkeys(ImageCounts.model_fields, 1)),
    )
