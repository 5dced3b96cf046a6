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
from realera.store.images import FILE_GROUPS, KNOWN, SCHEMA, read_rows
from realera.store.paths import BASE_IMAGES, method_place, place
from realera.store.scratch import make_scratch_root, scratch_root

_MANIFEST_ROWS = 64


@dataclass(frozen=True)
class Images:
    """Images to judge.

    Attributes:
        table: what is known of them beside their pictures, of `realera.store.images.KNOWN`.
        drawn_by: base or erased.
        name: of the model for an external detector: base, or the method that has erased.
        source: their file.
        index: their rows in it, ascending.
    """

    table: pa.Table
    drawn_by: str
    source: Path
    index: Sequence[int]
    name: str

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
        self._file = tempfile.TemporaryFile(dir=make_scratch_root())
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


def open_images(path: Path, drawn_by: str, name: str = "") -> Images:
    """Return all images of a table; `name` is that of the model, if it has another than `drawn_by`.

    Raises:
        ArtifactError: the file is missing or corrupt, or lacks a column.
    """
    table = read_parquet(path, KNOWN)
    return Images(table, drawn_by, path, range(table.num_rows), name or drawn_by)


def read_originals(concept: str, preset: Preset) -> list[Images]:
    """Return what the original model drew for a concept: its own words, and of the shared ones those that it needs.

    Raises:
        ArtifactError: a file is missing or corrupt, or lacks images of a word.
    """
    shared = [subject for subject in erased_subjects(preset) if subject.group in SHARED_GROUPS]
    sources = [(place(concept).originals, own_subjects(preset)), (BASE_IMAGES, shared)]
    return [select_subjects(open_images(path, "base"), subjects) for path, subjects in sources]


def read_erased(concept: str, preset: Preset, method: str) -> Images:
    """Return what a method's erased model drew for a concept.

    Raises:
        ArtifactError: the file is missing or corrupt, or lacks images of a word.
    """
    images = open_images(method_place(concept, method).images, "erased", method)
    return select_subjects(images, erased_subjects(preset))


def with_model(images: Iterable[Images]) -> Iterator[pa.Table]:
    """Yield all images, a few at a time, their ids with the model's name before: those of a pair share one id."""
    for each in images:
        for batch in each.batches(_MANIFEST_ROWS):
            rows = [row | {"image_id": named(each, row["image_id"])} for row in batch]
            yield pa.Table.from_pylist(rows, schema=SCHEMA)


def named(images: Images, image_id: str) -> str:
    """Return an image's name for an external detector, such as realera-0123456789abcdef or base-0123456789abcdef."""
    return f"{images.name}-{image_id}"


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
    absent = [key for key in wanted if key not in found and key[0] not in FILE_GROUPS]
    missing = [f"{word!r} ({group})" for group, word, _ in absent]
    if missing:
        raise ArtifactError(f"{images.source}: no images of {', '.join(missing)}; the preset needs them")
    index = [images.index[i] for i in kept]
    return Images(images.table.take(pa.array(kept, pa.int64())), images.drawn_by, images.source, index, images.name)
