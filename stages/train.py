"""Stage train: the LoRA that aligns the erased model's noise predictions (equations 8 and 9)."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
import typer

from realera.families import cross_attention
from realera.families.stable_diffusion import open_pipeline
from realera.methods.common.lora import save_adapter
from realera.methods.realera.alignment import Pairs, train
from realera.methods.realera.perturb import perturber
from realera.methods.realera.rows import check_width
from realera.methods.realera.samples import SampleTable
from realera.runtime import devices, launch
from realera.runtime.console import stage_errors
from realera.settings.config import Params, load_params
from realera.settings.errors import ArtifactError
from realera.settings.presets import load_preset
from realera.store.artifacts import atomic_path, read_safetensors
from realera.store.paths import artifact
from realera.store.scratch import fingerprint
from realera.text.prompt_table import PromptTable

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

INPUTS = ("prompts.parquet", "samples.parquet", "kv_patch.safetensors", "anchor_latents.safetensors")


def main(concept: str) -> None:
    """Write artifacts/<concept>/lora/ and loss.csv."""
    with stage_errors():
        params = load_params()
        count = params.lora.num_processes
        if count > 1 and launch.num_processes() == 1:
            device = str(devices.resolve_device(params.model.device))
            devices.check_num_processes("lora.num_processes", count, device, torch.cuda.device_count())
            launch.on_processes(work, (concept, params), count, "lora.num_processes")
        else:
            work(concept, params)


def work(concept: str, params: Params) -> None:
    """Train as one process of a launch, or alone; the main one writes."""
    shared = {"num_processes": launch.num_processes()}  # which changes the last bits of what is trained
    lora = params.lora.model_dump(exclude={"gradient_checkpointing"}) | shared
    settings = [lora, params.sampler.model_dump(), params.model.model_dump()]
    key = fingerprint(settings, [artifact(concept, name) for name in INPUTS])
    with launch.shared_scratch("train", key, params.model.device) as folder:
        pipe, log = align(concept, params, folder)
        if launch.is_main():
            with atomic_path(artifact(concept, "lora")) as target:
                save_adapter(pipe.unet, target)
            with atomic_path(artifact(concept, "loss.csv")) as target:
                log.to_csv(target, index=False)


def align(concept: str, params: Params, folder: Path) -> tuple["StableDiffusionPipeline", pd.DataFrame]:
    """Train; return the pipeline with its adapter, and the log."""
    table = PromptTable.read(artifact(concept, "prompts.parquet"))
    samples = SampleTable.read(artifact(concept, "samples.parquet"))
    num_images = params.latents.num_images * len(load_preset(concept).targets)
    patch_file = artifact(concept, "kv_patch.safetensors")
    patch = read_safetensors(patch_file)
    where = params.model.model_dump() | {"device": launch.own_device(params.model.device)}
    pipe = open_pipeline(**where, without=("text_encoder", "tokenizer", "vae"))
    check_width(cross_attention.weights(pipe.unet), table)
    cross_attention.check_fits(cross_attention.weights(pipe.unet), patch, str(patch_file))
    latents = read_latents(artifact(concept, "anchor_latents.safetensors"), num_images, pipe.unet.config.in_channels)
    log = train(
        pipe.unet,
        pairs(table, latents, params, len(load_preset(concept).targets)),
        pipe.scheduler.alphas_cumprod,
        params.lora,
        folder,
        perturber(table, samples, params.sampler),
        patch,
    )
    return pipe, log


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
    """Return the targets' prompts with their anchors' and the images of those anchors."""
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


if __name__ == "__main__":
    typer.run(main)
