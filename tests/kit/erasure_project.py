"""A project folder with the artifacts of an erasure, for the tests of what leaves the graph."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from transformers import CLIPTextModel

from realera.drawing import batch as sampling
from realera.erasures.artifact import LORA_FILE, Erasure, weights_sha256
from realera.families import cross_attention
from realera.families.stable_diffusion import open_pipeline
from realera.methods.seam import description
from realera.settings.config import load_params
from realera.settings.presets import load_preset
from realera.store.paths import Place

METHOD = "realera"

PROMPTS = ["a photo of the airplane", "a photo of the cat"]
STEPS, GUIDANCE = 4, 5.0
FIGURE = {"value": 12.345, "low": 10.0, "high": 15.0, "n": 40}
SCORES = {
    **{
        part: {"Acc_e": {"probability": FIGURE, "top1": FIGURE}, "Acc_g": None}
        for part in ("base", "erased", "difference")
    },
    "readings": ["probability", "top1"],
    "confidence": 0.95,
}


def make_workspace(folder, repository, model=None, generate=None):
    """Fill a folder: the model's real K/V weights, perturbed, and a LoRA; both change the images.

    `model` and `generate` are parameters of their sections; another model has the embedded one's weights.
    """
    params = yaml.safe_load((repository / "params.yaml").read_text())
    base = repository / params["model"]["id"]
    params["generate"] |= {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE} | (generate or {})
    params["model"] |= model or {}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "data").symlink_to(repository / "data")
    own = Place(folder / "artifacts" / "airplane").of(METHOD)
    params = load_params(folder / "params.yaml")
    pipe = open_pipeline(base, device="cpu")
    write_erasure(pipe, own.erasure, params)
    own.summary.write_text(json.dumps(SCORES))


def write_erasure(pipe, folder, params):
    """Write an erasure of a pipeline, which carries the LoRA afterwards."""
    sha256 = weights_sha256(cross_attention.weights(pipe.unet))
    used = params.model_dump(mode="json", include={"encode", "sampler", "solver", "latents", "lora"})
    about = description(load_preset("airplane").pairs(), params, METHOD, "stable_diffusion", used, sha256)
    overlay = perturbed(pipe)
    with tempfile.TemporaryDirectory() as scratch:
        save_random_lora(pipe, scratch)
        with safe_open(Path(scratch) / LORA_FILE, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    Erasure(about, overlay, tensors, metadata).save(folder)


def perturbed(pipe):
    """Return changed weights; the changes have various ranks, as a closed form's have."""
    generator = torch.Generator().manual_seed(0)
    new = {}
    for index, (name, weight) in enumerate(cross_attention.weights(pipe.unet).items()):
        rank = min(weight.shape) // (1 + index % 3)
        change = torch.randn(weight.shape[0], rank, generator=generator) / rank**0.5
        change = change @ torch.randn(rank, weight.shape[1], generator=generator)
        new[name] = weight + 0.3 * weight.std() * change
    return new


def save_random_lora(pipe, folder, rank=2, alpha=6.0):
    targets = [name.removesuffix(".weight") for name in cross_attention.weights(pipe.unet)]
    pipe.unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in pipe.unet.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet),
        unet_lora_adapter_metadata=pipe.unet.peft_config["default"].to_dict(),
    )


def save_new_text_encoder(source, folder):
    """Save one as transformers 5.6 and later save what they have made or trained: without the prefix `text_model.`.

    One that was opened from weights with the prefix would keep it.
    """
    opened = CLIPTextModel.from_pretrained(source)
    new = CLIPTextModel(opened.config)
    new.load_state_dict(opened.state_dict())
    new.half().save_pretrained(folder)


def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    prompts = PROMPTS * 2
    images = sampling.draw(pipe, prompts, range(len(prompts)), STEPS, GUIDANCE)
    return np.stack([np.asarray(image).astype(int) for image in images])
