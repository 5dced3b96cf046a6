"""Stage unet: encode the icons once, train the denoiser on them, put the generator together."""

from functools import partial
from pathlib import Path

import torch
import typer
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from pretrain.assemble import assemble
from pretrain.captions import CaptionSampler
from pretrain.config import VOCABULARY, WORK, load_params, load_vocabulary
from pretrain.data import Icons, IconSampler, load_icons
from pretrain.training import train
from pretrain.unet import UnetTask, build_unet, encode_views, load_latents
from realera.store.artifacts import atomic_path
from realera.store.scratch import fingerprint, scratch

ICONS, VAE, TEXT_ENCODER = WORK / "icons.parquet", WORK / "vae", WORK / "text_encoder"


def generator_icons() -> Icons:
    params = load_params()
    return load_icons(ICONS).without_vendors(*params.render.unseen)


def make_task(device: torch.device, latents: Path) -> UnetTask:
    params, icons = load_params(), generator_icons()
    text_encoder = CLIPTextModel.from_pretrained(TEXT_ENCODER, subfolder="text_encoder", dtype=torch.float32)
    unet = build_unet(params.unet, text_encoder.config.hidden_size, params.vae.latent_channels)
    return UnetTask(
        unet,
        load_latents(latents),
        icons,
        IconSampler(icons, params.caption.tier_weights),
        CaptionSampler(params.caption, load_vocabulary().concepts()),
        CLIPTokenizer.from_pretrained(TEXT_ENCODER, subfolder="tokenizer"),
        text_encoder,
        params.unet,
        device,
    )


def main() -> None:
    params = load_params()
    settings = [params.unet.model_dump(), params.caption.model_dump(), params.render.model_dump()]
    key = fingerprint(settings, [ICONS, VAE, TEXT_ENCODER, VOCABULARY])
    with scratch("unet", key) as folder:
        latents = folder / "latents.safetensors"
        if not latents.exists():
            vae = AutoencoderKL.from_pretrained(VAE).eval()
            encode_views(vae, generator_icons(), params.unet.views, params.unet.seed, latents)
        factory = partial(make_task, latents=latents)
        weights, log = train(factory, params.unet, folder, params.num_processes, params.unet.ema_decay)
        text_config = CLIPTextModel.config_class.from_pretrained(TEXT_ENCODER, subfolder="text_encoder")
        unet = build_unet(params.unet, text_config.hidden_size, params.vae.latent_channels)
        unet.load_state_dict(weights)
        with atomic_path(WORK / "tiny-sd") as target:
            assemble(TEXT_ENCODER, VAE, unet, target)
        with atomic_path(WORK / "unet_log.csv") as path:
            log.to_csv(path, index=False)


if __name__ == "__main__":
    typer.run(main)
