"""Train RealEra's LoRA from the artifacts that it rests on."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from realera.families import cross_attention
from realera.methods.common.closed_form import check_width
from realera.methods.common.lora import save_adapter
from realera.methods.realera.alignment import Pairs, train
from realera.methods.realera.perturb import perturber
from realera.methods.realera.samples import SampleTable
from realera.runtime import launch
from realera.settings.config import Params
from realera.settings.errors import ArtifactError
from realera.store.artifacts import atomic_path, read_safetensors, write_json
from realera.store.paths import REALERA, Place
from realera.text.prompt_table import PromptTable

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SECTIONS = ("sampler", "latents", "lora")
"""The parameters that a training rests on, beside those of what it reads."""


def align(
    place: Place,
    params: Params,
    num_targets: int,
    open_model: Callable[..., "StableDiffusionPipeline"],
    folder: Path,
    progress: bool = True,
) -> tuple["StableDiffusionPipeline", pd.DataFrame]:
    """Train; return the pipeline with its adapter, and the log.

    Args:
        place: of prompts, samples, K/V patch and latents.
        params: sections model, sampler, latents and lora.
        num_targets: of the preset.
        open_model: opens the unedited model.
        folder: scratch, for the checkpoint.
        progress: show a bar on stderr.

    Raises:
        ArtifactError: a file is missing or corrupt, or they are not of one erasure.
        ConfigError: see `realera.methods.realera.alignment.train`.
    """
    own = place.of(REALERA)
    table, samples = PromptTable.read(place.prompts), SampleTable.read(own.samples)
    patch = read_safetensors(own.kv_patch)
    device = launch.own_device(params.model.device)
    pipe = open_model(device=device, without=("text_encoder", "tokenizer", "vae"))
    check_width(cross_attention.weights(pipe.unet), table)
    cross_attention.check_fits(cross_attention.weights(pipe.unet), patch, str(own.kv_patch))
    num_images = params.latents.num_images * num_targets
    latents = read_latents(place.latents, num_images, pipe.unet.config.in_channels)
    log = train(
        pipe.unet,
        pairs(table, latents, params, num_targets),
        pipe.scheduler.alphas_cumprod,
        params.lora,
        folder,
        perturber(table, samples, params.sampler),
        patch,
        progress,
    )
    return pipe, log


def save_training(place: Place, pipe: "StableDiffusionPipeline", log: pd.DataFrame, params: Params) -> None:
    """Write the LoRA that a pipeline carries, the log of its training, and its parameters."""
    own = place.of(REALERA)
    with atomic_path(own.lora) as target:
        save_adapter(pipe.unet, target)
    with atomic_path(own.loss) as target:
        log.to_csv(target, index=False)
    write_json({name: getattr(params, name).model_dump(mode="json") for name in SECTIONS}, own.trained)


def read_latents(path: Path, num_images: int, channels: int) -> torch.Tensor:
    """Return the latents [num_images, channels, h, w] of the anchors' images.

    Raises:
        ArtifactError: the file is missing or corrupt, or holds another shape.
    """
    latents = read_safetensors(path, ["latents"])["latents"]
    if latents.dtype != torch.float32 or latents.ndim != 4 or latents.shape[:2] != (num_images, channels):
        found = f"{str(latents.dtype).removeprefix('torch.')} {list(latents.shape)}"
        raise ArtifactError(f"{path}: latents: found {found}; accepted: float32 [{num_images}, {channels}, h, w]")
    return latents


def pairs(table: PromptTable, latents: torch.Tensor, params: Params, num_targets: int) -> Pairs:
    """Return the targets' prompts with their anchors' and the images of those anchors.

    Raises:
        ArtifactError: the prompts are not those of so many targets.
    """
    found = table.pairs(params.sampler.span)
    if len(found) % num_targets:
        raise ArtifactError(f"prompts.parquet: {len(found)} prompts of {num_targets} targets; encode makes it anew")
    num_images = params.latents.num_images
    prompts_a_target = len(found) // num_targets
    rows = [[index // prompts_a_target * num_images + i for i in range(num_images)] for index in range(len(found))]
    return Pairs(
        table.embeddings[[pair.target_id for pair in found]],
        table.embeddings[[pair.anchor_id for pair in found]],
        latents,
        torch.tensor(rows),
    )
