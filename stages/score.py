"""Stage score: the preset's judges read a method's images; both models' figures are summed up with intervals."""

from typing import Annotated

import pyarrow as pa
import typer

from realera.judges.judging import judge_images
from realera.judges.pictures import read_erased, read_originals
from realera.judges.raw import SCORES
from realera.runtime.console import stage_errors
from realera.scores.summary import as_text, summarize
from realera.settings.config import load_params
from realera.settings.presets import load_preset
from realera.store.artifacts import read_parquet, write_json, write_parquet
from realera.store.paths import method_place, place
from realera.text.prompt_imports import skipped_rows


def main(
    concept: Annotated[str, typer.Argument(help="A preset of data/concepts.")],
    method: Annotated[str, typer.Argument(help="By which it was erased.")],
) -> None:
    """Images of the erased model -> scores.parquet (raw values of both models) and scores.json (the summary)."""
    with stage_errors():
        params, preset, own = load_params(), load_preset(concept), method_place(concept, method)
        originals = read_originals(concept, preset)
        erased = judge_images(preset, params, [read_erased(concept, preset, method)], originals, progress=True)
        scores = pa.concat_tables([read_parquet(place(concept).judged, SCORES), erased]).combine_chunks()
        summary = summarize(scores, params.score, preset, skipped=skipped_rows(preset))
        write_parquet(scores, own.scores)
        write_json(summary, own.summary)
        typer.echo(f"{concept} by {method}\n{as_text(summary)}")


if __name__ == "__main__":
    typer.run(main)
