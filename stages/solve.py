"""Stage solve: equation 7, the K and V weights that send the target and its neighbors to the anchor."""

from functools import partial

import typer

from realera.families.text_weights import read_text_weights
from realera.methods.realera.solving import solve
from realera.runtime.console import stage_errors
from realera.settings.config import load_params
from realera.store.paths import place


def main(concept: str) -> None:
    """Write kv_patch.safetensors, solved.json and solve.json of RealEra's erasure."""
    with stage_errors():
        params = load_params()
        solve(place(concept), params, concept, partial(read_text_weights, params.model.model_dump()))


if __name__ == "__main__":
    typer.run(main)
