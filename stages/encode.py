"""Stage encode: a preset's prompts, their token spans and embeddings."""

import typer

from realera.families.stable_diffusion import open_pipeline
from realera.runtime.console import stage_errors
from realera.settings.config import load_params
from realera.settings.presets import load_preset
from realera.store.paths import place
from realera.text.checks import check_preset
from realera.text.encoding import encode_preset


def main(concept: str) -> None:
    """Write artifacts/<concept>/prompts.parquet."""
    with stage_errors():
        params, preset = load_params(), load_preset(concept)
        pipe = open_pipeline(**params.model.model_dump() | {"dtype": "float32"}, without=("unet", "vae"))
        check_preset(concept, preset, params, pipe.tokenizer)
        encode_preset(preset, params.encode, pipe, params.model.id).write(place(concept).prompts)


if __name__ == "__main__":
    typer.run(main)
