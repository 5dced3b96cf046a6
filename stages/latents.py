"""Stage latents: anchor images of the original model, encoded once, which methods that train noise and learn from."""

import typer

from realera.drawing.latents import anchor_latents
from realera.families.stable_diffusion import open_pipeline
from realera.runtime.console import stage_errors
from realera.settings.config import load_params
from realera.settings.presets import load_preset
from realera.store.artifacts import write_safetensors
from realera.store.paths import place
from realera.text.checks import check_preset


def main(concept: str) -> None:
    """Write artifacts/<concept>/anchor_latents.safetensors: latents [num_pairs * num_images, 4, h, w]."""
    with stage_errors():
        params, preset = load_params(), load_preset(concept)
        check_preset(concept, preset, params)
        pipe = open_pipeline(**params.model.model_dump(), scheduler=params.generate.scheduler)
        anchors = [anchor for _, anchor in preset.pairs()]
        latents = anchor_latents(pipe, anchors, preset.draw.prompts, params.latents, params.generate)
        write_safetensors({"latents": latents}, place(concept).latents)


if __name__ == "__main__":
    typer.run(main)
