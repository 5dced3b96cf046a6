"""Draw images with diffusers' own pipeline."""

from collections.abc import Iterator, Sequence

import torch
from accelerate.utils import align_module_device  # type: ignore[import-untyped]
from diffusers import StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from realera.drawing.faster import faster
from realera.settings.config import MAX_SEED
from realera.text.vocabulary import warn_unknown_words


def draw(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    num_inference_steps: int,
    guidance_scale: float,
    batch_size: int = 16,
    progress: bool = False,
    size: tuple[int | None, int | None] = (None, None),
) -> Iterator[Image.Image]:
    """Yield one image for each prompt and its seed, in order.

    The noise of an image comes from its own generator on the CPU, so what is drawn depends on
    its prompt and seed alone, not on batch size, order or device. (Arithmetic does differ in
    the last bits between batch sizes, which can move a channel of a pixel by 1 of 255.)

    Args:
        pipe: from `realera.families.stable_diffusion.open_pipeline` or diffusers.
        prompts: one text an image; words that the model does not know raise a warning.
        seeds: one seed an image, 0 to MAX_SEED.
        num_inference_steps: denoising steps.
        guidance_scale: classifier-free guidance; 1 is none.
        batch_size: images at once.
        progress: show a bar with rate and remaining time on stderr.
        size: width and height in pixels; None: the model's.

    Raises:
        ValueError: the numbers of prompts and seeds differ, or a number is out of range.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"found {len(prompts)} prompts and {len(seeds)} seeds; one each is needed")
    if seeds and not 0 <= min(seeds) <= max(seeds) <= MAX_SEED:
        raise ValueError(f"found seeds {min(seeds)} to {max(seeds)}; accepted: 0 to {MAX_SEED}")
    if min(batch_size, num_inference_steps) < 1:
        raise ValueError("batch_size and num_inference_steps must be 1 or more")
    _warn(pipe, prompts)
    return _draw(pipe, prompts, seeds, num_inference_steps, guidance_scale, batch_size, progress, size)


def image_grid(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Put images of one size side by side, row by row; missing places stay white."""
    width, height = images[0].size
    num_rows = -(-len(images) // columns)
    grid = Image.new("RGB", (columns * width, num_rows * height), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        grid.paste(image, (column * width, row * height))
    return grid


@torch.no_grad()
def _draw(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    num_inference_steps: int,
    guidance_scale: float,
    batch_size: int,
    progress: bool,
    size: tuple[int | None, int | None],
) -> Iterator[Image.Image]:
    with tqdm(total=len(prompts), unit="image", disable=not progress) as bar:
        for start in range(0, len(prompts), batch_size):
            batch = slice(start, start + batch_size)
            with faster(pipe):
                images = pipe(
                    list(prompts[batch]),
                    generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds[batch]],
                    num_inference_steps=num_inference_steps,
                    guidance_scale=guidance_scale,
                    width=size[0],
                    height=size[1],
                ).images
            bar.update(len(images))
            yield from images


def _warn(pipe: StableDiffusionPipeline, prompts: Sequence[str]) -> None:
    embeddings = pipe.text_encoder.get_input_embeddings()
    with align_module_device(embeddings):  # brings offloaded weights back
        warn_unknown_words(prompts, pipe.tokenizer, embeddings.weight, pipe.name_or_path or "the model")
