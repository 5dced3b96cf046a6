"""Score an erasure: the preset's judges read the images of both models; sum up with intervals."""

from typing import Annotated

import typer

from realera.judges.judging import judge_images
from realera.judges.pictures import read_images
from realera.runtime.console import stage_errors
from realera.scores.summary import as_text, summarize
from realera.settings.config import load_params
from realera.settings.presets import load_preset
from realera.store.artifacts import write_json, write_parquet
from realera.store.paths import artifact


def main(concept: Annotated[str, typer.Argument(help="A preset of data/concepts.")]) -> None:
    """Images of both models -> scores.parquet (raw values) and scores.json (the summary)."""
    with stage_errors():
        params, preset = load_params(), load_preset(concept)
        scores = judge_images(preset, params, read_images(concept, preset), progress=True)
        summary = summarize(scores, params.score, preset)
        write_parquet(scores, artifact(concept, "scores.parquet"))
        write_json(summary, artifact(concept, "scores.json"))
        typer.echo(f"{concept}\n{as_text(summary)}")


if __name__ == "__main__":
    typer.run(main)
