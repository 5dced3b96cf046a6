"""Stage train: the LoRA that aligns the erased model's noise predictions (equations 8 and 9)."""

from pathlib import Path

import pandas as pd
import torch
import typer
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from realera import models
from realera.alignment import Pairs, train
from realera.artifacts import atomic_path
from realera.concepts import load_preset
from realera.config import Params, load_params
from realera.erased import read_patch
from realera.lora import save_adapter
from realera.neighborhood import perturber
from realera.prompt_table import PromptTable
from realera.samples import SampleTable
from realera.scratch import fingerprint, scratch
from realera.stage import artifact, stage_errors

INPUTS = ("prompts.parquet", "samples.parquet", "kv_patch.safetensors", "anchor_latents.safetensors")


def main(concept: str) -> None:
    """Write artifacts/<concept>/lora/ and loss.csv."""
    with stage_errors():
        params = load_params()
        settings = [params.lora.model_dump(), params.sampler.model_dump(), params.model.model_dump()]
        key = fingerprint(settings, [artifact(concept, name) for name in INPUTS])
        with scratch("train", key) as folder:
            pipe, log = align(concept, params, folder)
            with atomic_path(artifact(concept, "lora")) as target:
                save_adapter(pipe.unet, target)
            with atomic_path(artifact(concept, "loss.csv")) as target:
                log.to_csv(target, index=False)


def align(concept: str, params: Params, folder: Path) -> tuple[StableDiffusionPipeline, pd.DataFrame]:
    """Train; return the pipeline with its adapter, and the log."""
    table = PromptTable.read(artifact(concept, "prompts.parquet"))
    samples = SampleTable.read(artifact(concept, "samples.parquet"))
    latents = load_file(artifact(concept, "anchor_latents.safetensors"))["latents"]
    pipe = models.open_pipeline(**params.model.model_dump(), without=("text_encoder", "tokenizer", "vae"))
    log = train(
        pipe.unet,
        pairs(table, latents, params, len(load_preset(concept).targets)),
        pipe.scheduler.alphas_cumprod,
        params.lora,
        folder,
        perturber(table, samples, params.sampler),
        read_patch(artifact(concept, "kv_patch.safetensors")),
    )
    return pipe, log


def pairs(table: PromptTable, latents: torch.Tensor, params: Params, num_targets: int) -> Pairs:
    """Return the targets' prompts with their anchors' and the images of those anchors."""
    found = table.pairs(params.sampler.span)
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
