"""Stage latents: anchor images of the original model, encoded once, for the LoRA's noised latents."""

import typer

from realera import models
from realera.anchors import anchor_latents
from realera.artifacts import write_safetensors
from realera.concepts import load_preset
from realera.config import load_params
from realera.stage import artifact, stage_errors


def main(concept: str) -> None:
    """Write artifacts/<concept>/anchor_latents.safetensors: latents [num_pairs * num_images, 4, h, w]."""
    with stage_errors():
        params, preset = load_params(), load_preset(concept)
        pipe = models.open_pipeline(**params.model.model_dump())
        models.use_scheduler(pipe, params.generate.scheduler)
        anchors = [anchor for _, anchor in preset.pairs()]
        latents = anchor_latents(pipe, anchors, preset.draw.prompts, params.latents, params.generate)
        write_safetensors({"latents": latents}, artifact(concept, "anchor_latents.safetensors"))


if __name__ == "__main__":
    typer.run(main)
