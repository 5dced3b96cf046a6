"""Stages base, originals and generate: the images that are judged, by the original and the erased model."""

from enum import StrEnum
from pathlib import Path

import typer

from realera.drawing.many import Source, draw_all
from realera.drawing.subjects import Subject, drawings, erased_subjects, own_subjects, read_subjects
from realera.runtime.console import stage_errors
from realera.settings.config import load_params
from realera.settings.presets import load_preset
from realera.store.artifacts import write_parquet
from realera.store.paths import BASE_IMAGES, SUBJECTS, method_place, place
from realera.store.scratch import fingerprint, scratch
from realera.text.checks import check_preset


class What(StrEnum):
    """What is drawn: the words all presets share, a preset's own words, or an erased model's images."""

    base = "base"
    originals = "originals"
    erased = "erased"


def main(what: What, concept: str = typer.Argument(""), method: str = typer.Argument("")) -> None:
    """Write artifacts/shared/base.parquet, a concept's originals.parquet, or a method's images.parquet."""
    with stage_errors():
        subjects, out, source = _job(what, concept, method)
        params = load_params()
        settings = params.generate.model_dump(exclude={"num_processes", "offload"})
        key = fingerprint([what, concept, settings, params.model.model_dump(), repr(subjects)], source.files())
        with scratch(what, key) as folder:
            write_parquet(draw_all(drawings(subjects, params.generate), source, params.generate, folder), out)


def _job(what: What, concept: str, method: str) -> tuple[list[Subject], Path, Source]:
    """Return whom to draw, where to, and with which model."""
    params = load_params()
    model = params.model
    if what is What.base:
        return read_subjects(SUBJECTS), BASE_IMAGES, Source(model)
    preset = load_preset(concept)
    if what is What.originals:
        check_preset(concept, preset, params)
        return own_subjects(preset), place(concept).originals, Source(model)
    own = method_place(concept, method)
    return erased_subjects(preset), own.images, Source(model, own.erasure)


if __name__ == "__main__":
    typer.run(main)
