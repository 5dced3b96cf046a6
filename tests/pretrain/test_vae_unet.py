from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pretrain.captions import CaptionSampler
from pretrain.config import Vocabulary
from pretrain.data import IconSampler
from pretrain.unet import UnetTask, build_scheduler, build_unet, encode_views, load_latents
from pretrain.vae import VaeTask, build_vae, measure_vae

WEIGHTS = {"classes": 1.0, "core": 1.0, "rest": 1.0}
WIDTH = 12


@pytest.fixture(scope="module")
def vae_params(params):
    return params.vae.model_copy(update={"block_out_channels": (8, 8, 16), "norm_num_groups": 4, "batch_size": 4})


@pytest.fixture(scope="module")
def vae(vae_params):
    torch.manual_seed(0)
    return build_vae(vae_params).eval()


@pytest.fixture(scope="module")
def unet_params(params):
    small = {"block_out_channels": (8, 16, 24), "num_attention_heads": 2, "norm_num_groups": 4, "batch_size": 16}
    return params.unet.model_copy(update=small)


# autoencoder -----------------------------------------------------------------------------------------


def test_the_autoencoder_halves_twice(vae):
    images = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean
        assert latents.shape == (1, 4, 16, 16)
        assert vae.decode(latents).sample.shape == images.shape
    assert not any("attention" in name for name, _ in vae.named_parameters())


def test_autoencoder_loss_follows_the_generator(vae, vae_params, icons, seeded):
    task = VaeTask(vae, icons, IconSampler(icons, WEIGHTS), vae_params, torch.device("cpu"))
    with torch.no_grad():
        first, again, other = (task.loss(seeded(seed)) for seed in (1, 1, 2))
    assert set(first) == {"loss", "psnr", "kl"}
    assert all(value.isfinite() for value in first.values())
    assert first["kl"] >= 0
    assert first["loss"] == again["loss"]
    assert first["loss"] != other["loss"]


def test_the_scaling_factor_gives_latents_unit_variance(vae, icons, seeded, tmp_path):
    few = icons.select([i < 8 for i in range(len(icons))])
    measured = measure_vae(vae, few)
    assert 0 < measured["psnr"] < 40
    vae.register_to_config(scaling_factor=measured["scaling_factor"])
    encode_views(vae, few, views=2, seed=3, path=tmp_path / "latents.safetensors")
    latents = load_latents(tmp_path / "latents.safetensors")
    assert (latents.shape, latents.dtype) == ((8, 2, 4, 16, 16), torch.float16)
    assert latents.float().std() == pytest.approx(1, abs=0.1)
    assert not torch.equal(latents[:, 0], latents[:, 1])
    encode_views(vae, few, views=2, seed=3, path=tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "latents.safetensors").read_bytes()


# denoiser --------------------------------------------------------------------------------------------


def test_cross_attention_of_several_widths(unet_params):
    unet = build_unet(unet_params, WIDTH, 4)
    layers = {name: module for name, module in unet.named_modules() if name.endswith("attn2")}
    assert {layer.to_k.out_features for layer in layers.values()} == {16, 24}
    assert {layer.to_k.in_features for layer in layers.values()} == {WIDTH}
    assert {layer.heads for layer in layers.values()} == {2}
    assert not any(name.startswith(("down_blocks.0", "up_blocks.2")) for name in layers)
    assert unet.config.cross_attention_dim == WIDTH
    with torch.no_grad():
        predicted = unet(torch.zeros(2, 4, 16, 16), 5, torch.zeros(2, 77, WIDTH)).sample
    assert predicted.shape == (2, 4, 16, 16)


def test_the_noise_schedule_is_stable_diffusions():
    expected = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "steps_offset": 1,
        "clip_sample": False,
        "set_alpha_to_one": False,
    }
    assert {key: build_scheduler().config[key] for key in expected} == expected


class Silent(nn.Module):
    """Predicts no noise, and remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def set_attn_processor(self, processor) -> None:
        pass

    def forward(self, noisy, timestep, text):
        self.seen = SimpleNamespace(noisy=noisy, timestep=timestep, text=text)
        return SimpleNamespace(sample=torch.zeros_like(noisy))


class Words(nn.Module):
    """Gives every token its id as embedding."""

    def forward(self, ids):
        return SimpleNamespace(last_hidden_state=ids.float()[..., None])


@pytest.fixture
def make_task(params, unet_params, icons, tokenizer):
    concepts = Vocabulary(classes={"cat": ("x", "feline")}, core={"house": ("x",)}, rest={"spoon": ("x",)}).concepts()

    def make(latents: torch.Tensor, **changed) -> UnetTask:
        return UnetTask(
            Silent(),
            latents,
            icons,
            IconSampler(icons, WEIGHTS),
            CaptionSampler(params.caption, concepts),
            tokenizer,
            Words(),
            unet_params.model_copy(update=changed),
            torch.device("cpu"),
        )

    return make


def test_the_loss_has_the_min_snr_weight(make_task, icons, seeded):
    """With clean latents of 0 and a prediction of 0, what the model saw tells the noise."""
    task = make_task(torch.zeros(len(icons), 2, 4, 16, 16).half(), snr_gamma=5.0)
    values = task.loss(seeded())
    seen = task.module.seen
    alpha = build_scheduler().alphas_cumprod[seen.timestep]
    noise = seen.noisy / (1 - alpha).sqrt().view(-1, 1, 1, 1)
    error = noise.square().mean(dim=(1, 2, 3))
    snr = alpha / (1 - alpha)
    assert (snr > 5).any()
    assert (snr < 5).any()
    weight = torch.minimum(snr, torch.tensor(5.0)) / snr
    assert values["loss"].item() == pytest.approx((weight * error).mean().item(), rel=1e-5)
    assert values["mse"].item() == pytest.approx(error.mean().item(), rel=1e-5)


def test_the_loss_follows_the_generator(make_task, icons, seeded):
    task = make_task(torch.randn(len(icons), 2, 4, 16, 16, generator=seeded()).half())
    first, again, other = (task.loss(seeded(seed))["loss"].item() for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_captions_are_dropped_for_classifier_free_guidance(make_task, icons, seeded, dropout):
    task = make_task(torch.zeros(len(icons), 1, 4, 16, 16).half(), caption_dropout=dropout)
    task.loss(seeded())
    ids = task.module.seen.text[..., 0].long()
    assert ids.shape == (16, 77)
    empty = (ids[:, 1] == 49407).float().mean()
    assert empty == dropout
