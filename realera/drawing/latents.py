"""Images of the anchors as the UNet sees them, for the LoRA's noised latents (section 4.3)."""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from realera.drawing.batch import draw
from realera.settings.config import GenerateParams, LatentsParams
from realera.text.prompts import fill


@torch.no_grad()
def anchor_latents(
    pipe: StableDiffusionPipeline,
    anchors: Sequence[str],
    templates: Sequence[str],
    params: LatentsParams,
    how: GenerateParams,
    progress: bool = True,
) -> torch.Tensor:
    """Draw images of each anchor with the original model and encode them.

    Args:
        pipe: the original model.
        anchors: names; images of one follow those of the one before.
        templates: prompts with {name}, drawn in turn.
        params: images an anchor, and the first one's seed.
        how: steps, guidance and batch size of the drawing.
        progress: show a bar on stderr.

    Returns:
        float32 [num_anchors * num_images, latent channels, h, w] on the CPU, scaled as the UNet
        expects them. The mean of the VAE's posterior, so encoding draws nothing.
    """
    turns = [templates[index % len(templates)] for index in range(params.num_images)]
    prompts = [fill(template, anchor)[0] for anchor in anchors for template in turns]
    seeds = [params.seed + index for _ in anchors for index in range(params.num_images)]
    images = list(draw(pipe, prompts, seeds, how.num_inference_steps, how.guidance_scale, how.batch_size, progress))
    batches = (images[start : start + how.batch_size] for start in range(0, len(images), how.batch_size))
    return torch.cat([_encode(pipe, batch) for batch in batches])


def _encode(pipe: StableDiffusionPipeline, images: Sequence[Image.Image]) -> torch.Tensor:
    pixels = pipe.image_processor.preprocess(list(images)).to(pipe.device, pipe.vae.dtype)
    return (pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor).float().cpu()
