"""Put trained parts together as a stock Stable Diffusion folder."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from pretrain.unet import build_scheduler


def assemble(text_encoder: Path, vae: Path, unet: UNet2DConditionModel, target: Path) -> None:
    """Write a float16 pipeline that `StableDiffusionPipeline.from_pretrained(target)` opens."""
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(vae),
        text_encoder=CLIPTextModel.from_pretrained(text_encoder, subfolder="text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(text_encoder, subfolder="tokenizer"),
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(torch.float16).save_pretrained(target)
