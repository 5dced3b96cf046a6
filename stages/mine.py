"""Stage mine: neighbor and beyond samples of the target's prompts (Algorithm 1)."""

import typer

from realera.methods.realera.sampling import mine
from realera.runtime.console import stage_errors
from realera.settings.config import load_params
from realera.settings.presets import load_preset
from realera.store.paths import place


def main(concept: str) -> None:
    """Write samples.parquet and mining.json of RealEra's erasure."""
    with stage_errors():
        mine(place(concept), load_preset(concept), load_params())


if __name__ == "__main__":
    typer.run(main)
