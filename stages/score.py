"""Score an erasure: judge the images of both models, and sum up with intervals."""

from typing import Annotated

import pyarrow as pa
import typer

from realera.artifacts import read_parquet, write_json, write_parquet
from realera.concepts import load_preset, load_words
from realera.config import load_params
from realera.evaluation import erased_subjects, own_subjects
from realera.images import SCHEMA
from realera.metrics.erasure import as_text, summarize
from realera.metrics.forced_choice import choice_labels, judge_images, read_choices, select_subjects
from realera.models import open_judge
from realera.stage import SHARED, artifact, stage_errors

OWN_GROUPS = ("erase", "synonym", "anchor")


def main(concept: Annotated[str, typer.Argument(help="A preset of data/concepts.")]) -> None:
    """Images of both models -> scores.parquet (raw values) and scores.json (the summary)."""
    with stage_errors():
        params, preset = load_params(), load_preset(concept)
        labels = choice_labels(preset, load_words(preset.classes), load_words(preset.unseen))
        erased = erased_subjects(preset)
        shared = [subject for subject in erased if subject.group not in OWN_GROUPS]
        sources = [
            ("base", artifact(concept, "originals.parquet"), own_subjects(preset)),
            ("base", SHARED / "base.parquet", shared),
            ("erased", artifact(concept, "images.parquet"), erased),
        ]
        images = [select_subjects(read_parquet(path, SCHEMA), subjects, path) for _, path, subjects in sources]
        model, processor = open_judge(params.judge.id, params.judge.revision, params.model.device)
        choices = read_choices(model, processor, labels, params.generate.template)
        parts = [
            judge_images(model, processor, table, choices, drawn_by, path, progress=True)
            for table, (drawn_by, path, _) in zip(images, sources, strict=True)
        ]
        scores = pa.concat_tables(parts)
        summary = summarize(scores, params.score, preset)
        write_parquet(scores, artifact(concept, "scores.parquet"))
        write_json(summary, artifact(concept, "scores.json"))
        typer.echo(f"{concept}\n{as_text(summary)}")


if __name__ == "__main__":
    typer.run(main)
