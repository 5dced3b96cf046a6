"""The autoencoder: diffusers' AutoencoderKL at f = 4, trained on the icons."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from pretrain.config import Vae
from pretrain.data import Icons, IconSampler, light_views, plain_views
from pretrain.precision import autocast

IMAGE_SIZE = 64


def build_vae(params: Vae) -> AutoencoderKL:
    num_levels = len(params.block_out_channels)
    return AutoencoderKL(
        block_out_channels=params.block_out_channels,
        down_block_types=("DownEncoderBlock2D",) * num_levels,
        up_block_types=("UpDecoderBlock2D",) * num_levels,
        layers_per_block=1,
        latent_channels=params.latent_channels,
        norm_num_groups=params.norm_num_groups,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
    )


@dataclass
class VaeTask:
    """L1 + 2 MSE + weighted image-gradient L1 + weighted KL, on lightly moved icons."""

    module: AutoencoderKL
    icons: Icons
    sampler: IconSampler
    params: Vae
    device: torch.device

    def loss(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        index = self.sampler.sample(self.params.batch_size, generator)
        images = light_views(self.icons.rgba[index], generator).to(self.device)
        noise = torch.randn(
            len(images), self.params.latent_channels, *(s // 4 for s in images.shape[2:]), generator=generator
        ).to(self.device)
        with autocast(self.device):
            posterior = self.module.encode(images).latent_dist
            latents = posterior.mean + posterior.std * noise
            decoded = self.module.decode(latents).sample.float()
        mse = F.mse_loss(decoded, images)
        gradients = F.l1_loss(decoded.diff(dim=-1), images.diff(dim=-1))
        gradients = gradients + F.l1_loss(decoded.diff(dim=-2), images.diff(dim=-2))
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        loss = F.l1_loss(decoded, images) + 2 * mse
        loss = loss + self.params.gradient_weight * gradients + self.params.kl_weight * kl
        return {"loss": loss, "psnr": 10 * torch.log10(4 / mse.detach()), "kl": kl.detach()}


@torch.no_grad()
def measure_vae(vae: AutoencoderKL, icons: Icons) -> dict[str, float]:
    """PSNR in dB over the icons, and the scaling factor that gives their latents unit variance."""
    images = plain_views(icons.rgba)
    latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in images.split(64)])
    decoded = torch.cat([vae.decode(batch).sample for batch in latents.split(64)]).clamp(-1, 1)
    mse = (decoded - images).square().mean(dim=(1, 2, 3))
    psnr = (10 * torch.log10(4 / mse)).mean()
    return {"psnr": round(psnr.item(), 3), "scaling_factor": round(1 / latents.std().item(), 5)}
