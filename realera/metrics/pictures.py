"""What there is to judge of a concept: the images of both models."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from realera.artifacts import read_parquet
from realera.concepts import Preset
from realera.errors import ArtifactError
from realera.evaluation import SHARED_GROUPS, Subject, erased_subjects, own_subjects
from realera.images import SCHEMA
from realera.stage import SHARED, artifact


@dataclass(frozen=True)
class Images:
    """Images to judge.

    Attributes:
        table: of `realera.images.SCHEMA`.
        drawn_by: base or erased.
        source: their file, for errors.
    """

    table: pa.Table
    drawn_by: str
    source: Path


def read_images(concept: str, preset: Preset) -> list[Images]:
    """Return what both models drew for a concept.

    Raises:
        ArtifactError: a file is missing or corrupt, or lacks images of a word.
    """
    erased = erased_subjects(preset)
    shared = [subject for subject in erased if subject.group in SHARED_GROUPS]
    sources = [
        ("base", artifact(concept, "originals.parquet"), own_subjects(preset)),
        ("base", SHARED / "base.parquet", shared),
        ("erased", artifact(concept, "images.parquet"), erased),
    ]
    return [
        select_subjects(Images(read_parquet(path, SCHEMA), model, path), subjects) for model, path, subjects in sources
    ]


def with_model(images: Iterable[Images]) -> pa.Table:
    """Return all images in one table, their ids with the model's name before: those of a pair share one id."""
    tables = []
    for each in images:
        ids = pa.array([named(each, image_id) for image_id in each.table["image_id"].to_pylist()], pa.string())
        tables.append(each.table.set_column(each.table.schema.get_field_index("image_id"), "image_id", ids))
    return pa.concat_tables(tables)


def named(images: Images, image_id: str) -> str:
    """Return an image's name for an external detector, such as erased-0123456789abcdef."""
    return f"{images.drawn_by}-{image_id}"


def select_subjects(images: Images, subjects: Iterable[Subject]) -> Images:
    """Return the images that show the subjects, with the subjects' prompts.

    Rows of prompt files may lack: `generate.images.rows` says how many are drawn.

    Raises:
        ArtifactError: a subject has no image, or a column is missing.
    """
    wanted = {subject.key: set(subject.prompts) for subject in subjects}
    rows = images.table.select(["group", "word", "parent", "prompt"]).to_pylist()
    keys = [(row["group"], row["word"], row["parent"]) for row in rows]
    kept = [i for i, key in enumerate(keys) if rows[i]["prompt"] in wanted.get(key, ())]
    found = {keys[i] for i in kept}
    missing = [f"{word!r} ({group})" for group, word, parent in wanted if (group, word, parent) not in found]
    missing = [text for text in missing if not text.endswith("(rows)")]
    if missing:
        raise ArtifactError(f"{images.source}: no images of {', '.join(missing)}; the preset needs them")
    return Images(images.table.take(pa.array(kept, pa.int64())), images.drawn_by, images.source)
