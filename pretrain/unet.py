"""The denoiser: diffusers' UNet2DConditionModel, trained on encoded icons and their captions."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from pretrain.captions import CaptionSampler, chance
from pretrain.config import Unet
from pretrain.data import Icons, IconSampler, light_views
from pretrain.precision import autocast
from realera.store.artifacts import write_safetensors


def build_unet(params: Unet, cross_attention_dim: int, latent_channels: int) -> UNet2DConditionModel:
    """Cross-attention on every level but the first, as many levels as `block_out_channels`."""
    depth = len(params.block_out_channels) - 1
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=params.block_out_channels,
        layers_per_block=params.layers_per_block,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * depth),
        up_block_types=(*["CrossAttnUpBlock2D"] * depth, "UpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=params.num_attention_heads,  # diffusers' name for the number of heads
        norm_num_groups=params.norm_num_groups,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule: 1,000 steps, `scaled_linear` betas, epsilon prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def encode_views(vae: AutoencoderKL, icons: Icons, views: int, seed: int, path: Path) -> None:
    """Write `views` encoded augmentations of each icon: latents float16 [N, views, 4, 16, 16]."""
    generator = torch.Generator().manual_seed(seed)
    encoded = []
    for _ in range(views):
        images = light_views(icons.rgba, generator)
        encoded.append(torch.cat([vae.encode(batch).latent_dist.mean for batch in images.split(64)]))
    latents = torch.stack(encoded, dim=1) * vae.config.scaling_factor
    write_safetensors({"latents": latents.half()}, path)


def load_latents(path: Path) -> torch.Tensor:
    return load_file(path)["latents"]


@dataclass
class UnetTask:
    """Epsilon prediction with the min-SNR weight (Hang et al. 2023, eq. 5): min(SNR, gamma) / SNR."""

    module: UNet2DConditionModel
    latents: torch.Tensor  # float16 [N, views, 4, 16, 16]
    icons: Icons
    sampler: IconSampler
    captions: CaptionSampler
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    params: Unet
    device: torch.device

    def __post_init__(self) -> None:
        self.text_encoder.to(self.device).requires_grad_(False).eval()
        self.alphas_cumprod = build_scheduler().alphas_cumprod
        if self.device.type == "cpu":  # the fused kernel's backward is the slower one there
            self.module.set_attn_processor(AttnProcessor())

    def loss(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        batch = self.params.batch_size
        index = self.sampler.sample(batch, generator)
        view = torch.randint(self.latents.shape[1], (batch,), generator=generator)
        clean = self.latents[index, view].float()
        noise = torch.randn(clean.shape, generator=generator)
        timestep = torch.randint(len(self.alphas_cumprod), (batch,), generator=generator)
        alpha = self.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        noisy = (alpha.sqrt() * clean + (1 - alpha).sqrt() * noise).to(self.device)
        texts = [self._caption(int(i), generator) for i in index]
        with autocast(self.device):
            predicted = self.module(noisy, timestep.to(self.device), self._encode(texts)).sample
        error = (predicted.float() - noise.to(self.device)).square().mean(dim=(1, 2, 3))
        snr = (alpha / (1 - alpha)).flatten().to(self.device)
        weighted = (error * (snr.clamp(max=self.params.snr_gamma) / snr)).mean()
        return {"loss": weighted, "mse": error.detach().mean()}

    def _caption(self, index: int, generator: torch.Generator) -> str:
        if chance(self.params.caption_dropout, generator):
            return ""
        styled = chance(self.params.style_rate, generator)
        style = self.icons.vendors[index] if styled else None
        return self.captions.sample(self.icons.concepts[index], style, generator).text

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> torch.Tensor:
        inputs = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return self.text_encoder(inputs["input_ids"].to(self.device)).last_hidden_state
