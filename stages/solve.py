"""Stage solve: equation 7, the K and V weights that send the target and its neighbors to the anchor."""

import typer

from realera.families import cross_attention
from realera.families.stable_diffusion import open_pipeline
from realera.methods.realera.rows import Erasure, erase
from realera.methods.realera.samples import read_blocks
from realera.runtime.console import stage_errors
from realera.settings.config import Params, load_params
from realera.store.artifacts import write_json, write_safetensors
from realera.store.paths import artifact
from realera.text.prompt_table import PromptTable


def main(concept: str) -> None:
    """Write artifacts/<concept>/kv_patch.safetensors and solve.json."""
    with stage_errors():
        params = load_params()
        erasure = solve(concept, params)
        metadata = {"base_model": params.model.id, "concept": concept}
        write_safetensors(erasure.weights, artifact(concept, "kv_patch.safetensors"), metadata)
        write_json(erasure.report, artifact(concept, "solve.json"))


def solve(concept: str, params: Params) -> Erasure:
    """Return the new weights and what the solve did."""
    table = PromptTable.read(artifact(concept, "prompts.parquet"))
    samples = read_blocks(artifact(concept, "samples.parquet"))
    options = params.model.model_dump() | {"dtype": "float32", "device": "cpu"}
    pipe = open_pipeline(**options, without=("text_encoder", "tokenizer", "vae"))
    return erase(cross_attention.weights(pipe.unet), table, samples, params.sampler.span, params.solver)


if __name__ == "__main__":
    typer.run(main)
