"""Put trained parts together as a stock Stable Diffusion folder."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from pretrain.unet import build_scheduler
from realera.store.artifacts import read_json, write_json


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
    ask_for_float32(target / "text_encoder")


def ask_for_float32(folder: Path) -> None:
    """Let transformers open a model's float16 weights in float32.

    It opens them in the precision that the config names, by default that of the file; what feeds such a model
    (CLIP's processor, diffusers' other parts) comes in float32.
    """
    config = read_json(folder / "config.json")
    for part in (config, config.get("text_config", {}), config.get("vision_config", {})):
        part["dtype"] = "float32"
    write_json(config, folder / "config.json")
