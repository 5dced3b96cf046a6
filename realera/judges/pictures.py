"""What there is to judge of a concept: the images of both models.

There may be tens of thousands of them: pictures stay in their files and are read as they are needed.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from realera.drawing.subjects import SHARED_GROUPS, Subject, erased_subjects, own_subjects
from realera.settings.errors import ArtifactError
from realera.settings.presets import Preset
from realera.store.artifacts import read_parquet
from realera.store.images import KNOWN, SCHEMA, read_rows
from realera.store.paths import SHARED, artifact
from realera.store.scratch import scratch_root

_MANIFEST_ROWS = 64


@dataclass(frozen=True)
class Images:
    """Images to judge.

    Attributes:
        table: what is known of them beside their pictures, of `realera.store.images.KNOWN`.
        drawn_by: base or erased.
        source: their file.
        index: their rows in it, ascending.
    """

    table: pa.Table
    drawn_by: str
    source: Path
    index: Sequence[int]

    def batches(self, num_images: int) -> Iterator[list[dict[str, Any]]]:
        """Yield rows of `realera.store.images.SCHEMA`, a few images at a time.

        Raises:
            ArtifactError: a picture is missing, or the file is corrupt.
        """
        rows = read_rows(self.source, self.index)
        while batch := list(islice(rows, num_images)):
            yield batch


class PictureStore:
    """Pictures that are asked for in another order than they come in, kept in a temporary file.

    It lies in the scratch folder, because a temporary folder may be memory, and goes with the block.
    """

    def __enter__(self) -> Self:
        """Open the file, which has no name: nothing is left of a killed process."""
        root = scratch_root()
        root.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=root)
        self._places: dict[tuple, tuple[int, int]] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the file."""
        self._file.close()

    def add(self, key: tuple, png: bytes) -> None:
        """Keep a picture; a later one of the same key takes its place.

        Raises:
            ArtifactError: the disk is full.
        """
        try:
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(png)
            self._file.flush()
        except OSError as error:
            raise ArtifactError(f"{scratch_root()}: cannot be written: {error.strerror}") from error
        self._places[key] = (start, len(png))

    def get(self, key: tuple) -> bytes | None:
        """Return a picture; None for a key that has none."""
        if key not in self._places:
            return None
        start, length = self._places[key]
        self._file.seek(start)
        return self._file.read(length)


def open_images(path: Path, drawn_by: str) -> Images:
    """Return all images of a table.

    Raises:
        ArtifactError: the file is missing or corrupt, or lacks a column.
    """
    table = read_parquet(path, KNOWN)
    return Images(table, drawn_by, path, range(table.num_rows))


def read_images(concept: str, preset: Preset) -> list[Images]:
    """Return what both models drew for a concept.

    Raises:
        ArtifactError: a file is missing or corrupt, or lacks images of a word.
    """
    erased = erased_subjects(preset)
    shared = [subject for subject in erased if subject.group in SHARED_GROUPS]
    # The original model's before the erased one's: the judge of distances needs them in this order.
    sources = [
        ("base", artifact(concept, "originals.parquet"), own_subjects(preset)),
        ("base", SHARED / "base.parquet", shared),
        ("erased", artifact(concept, "images.parquet"), erased),
    ]
    return [select_subjects(open_images(path, model), subjects) for model, path, subjects in sources]


def with_model(images: Iterable[Images]) -> Iterator[pa.Table]:
    """Yield all images, a few at a time, their ids with the model's name before: those of a pair share one id."""
    for each in images:
        for batch in each.batches(_MANIFEST_ROWS):
            rows = [row | {"image_id": named(each, row["image_id"])} for row in batch]
            yield pa.Table.from_pylist(rows, schema=SCHEMA)


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
    index = [images.index[i] for i in kept]
    return Images(images.table.take(pa.array(kept, pa.int64())), images.drawn_by, images.source, index)
