"""Stage judge: the preset's judges read the original model's images, once for all methods."""

from typing import Annotated

import typer

from realera.judges.judging import judge_images
from realera.judges.pictures import read_originals
from realera.runtime.console import stage_errors
from realera.settings.config import load_params
from realera.settings.presets import load_preset
from realera.store.artifacts import write_parquet
from realera.store.paths import place


def main(concept: Annotated[str, typer.Argument(help="A preset of data/concepts.")]) -> None:
    """Images of the original model -> judged.parquet (raw values)."""
    with stage_errors():
        preset = load_preset(concept)
        originals = read_originals(concept, preset)
        write_parquet(judge_images(preset, load_params(), originals, progress=True), place(concept).judged)


if __name__ == "__main__":
    typer.run(main)
