"""Checkpoints of families that RealEra does not know: of the very classes, with few and random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

WIDTH = 32


def stable_diffusion_xl(tokenizer: CLIPTokenizer) -> DiffusionPipeline:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(WIDTH, WIDTH),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        cross_attention_dim=2 * WIDTH,
    )
    encoders = two_encoders(tokenizer, CLIPTextModel)
    return StableDiffusionXLPipeline(unet=unet, vae=vae(4), scheduler=EulerDiscreteScheduler(), **encoders)


def stable_diffusion_3(tokenizer: CLIPTokenizer) -> DiffusionPipeline:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=WIDTH,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=2 * WIDTH,
    )
    parts = {"transformer": transformer, "vae": vae(16), "scheduler": FlowMatchEulerDiscreteScheduler()}
    encoders = two_encoders(tokenizer, CLIPTextModelWithProjection)
    return StableDiffusion3Pipeline(**parts, **encoders, **t5(3))


def flux(tokenizer: CLIPTokenizer) -> DiffusionPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    parts = {"transformer": transformer, "vae": vae(4), "scheduler": FlowMatchEulerDiscreteScheduler()}
    encoders = {"text_encoder": CLIPTextModel(clip(tokenizer)), "tokenizer": tokenizer}
    return FluxPipeline(**parts, **encoders, **t5(2))


FAMILIES: dict[str, Callable[[CLIPTokenizer], DiffusionPipeline]] = {
    "StableDiffusionXLPipeline": stable_diffusion_xl,
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "FluxPipeline": flux,
}


def save(name: str, tiny_sd: Path, folder: Path) -> Path:
    """Save a checkpoint of the class `name`, with the tokenizer of `tiny_sd`."""
    torch.manual_seed(0)
    FAMILIES[name](CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer")).save_pretrained(folder)
    return folder


def clip(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "projection_dim": WIDTH}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 4}
    return CLIPTextConfig(vocab_size=len(tokenizer), **sizes, **layers)


def two_encoders(tokenizer: CLIPTokenizer, first: type[torch.nn.Module]) -> dict[str, Any]:
    return {
        "text_encoder": first(clip(tokenizer)),
        "tokenizer": tokenizer,
        "text_encoder_2": CLIPTextModelWithProjection(clip(tokenizer)),
        "tokenizer_2": tokenizer,
    }


def t5(number: int) -> dict[str, Any]:
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0)]
    config = T5Config(vocab_size=len(vocabulary), d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=4)
    tokenizer = T5TokenizerFast(vocab=vocabulary, extra_ids=0)
    return {f"text_encoder_{number}": T5EncoderModel(config), f"tokenizer_{number}": tokenizer}


def vae(latent_channels: int) -> AutoencoderKL:
    return AutoencoderKL(block_out_channels=(WIDTH,), latent_channels=latent_channels, shift_factor=0.1)
