"""Faces found by a detector that runs elsewhere: what it reads, and what it gives back.

The celebrity detector that the paper counts with needs an old runtime of its own. So the images and
a list of them are written to a folder, the detector runs there as its authors say, and its answers
come back as a CSV file. Both files are UTF-8 with a header; lines may end as on any system.

manifest.csv, written by `write_manifest`, one row an image:

| column | content |
|---|---|
| image_id | name of the image |
| file | its PNG file, relative to the manifest |
| group, word, parent, prompt, seed | what the image is of, and how it was drawn |
| sha256 | of the PNG file, 64 hex digits |

predictions.csv, read by `read_predictions`, one row a face and label, in any order:

| column | content |
|---|---|
| image_id | as in the manifest; every image of the manifest has at least one row |
| face | index of the face in the image, counted from 0 in the detector's order; empty: no face |
| label | a name that the detector gives the face; empty where there is no face |
| probability | of that name, 0 to 1; empty where there is no face |

An image without a face has exactly one row, with the other three cells empty. Other columns are
allowed and not read.

    image_id,face,label,probability
    a,0,Tom Hanks,0.91
    a,0,Tom Cruise,0.06
    a,1,Nobody,0.4
    b,,,
"""

import csv
import hashlib
import io
import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from realera.settings.errors import ArtifactError
from realera.store.artifacts import atomic_path, existing_file
from realera.store.images import SCHEMA, decode_png

MANIFEST = "manifest.csv"
COLUMNS = ("image_id", "face", "label", "probability")
MANIFEST_COLUMNS = ("image_id", "file", "group", "word", "parent", "prompt", "seed", "sha256")

Face = list[tuple[str, float]]
"""[(label, probability)], the most probable first."""

_Cells = dict[str, str]
_Faces = dict[int, dict[str, float]]
"""Face -> label -> probability, as the rows come."""

_Place = tuple[Path, int]
"""File and line, for errors."""


def write_manifest(images: pa.Table | Iterable[pa.Table], folder: str | Path) -> None:
    """Write the images as PNG files and manifest.csv, which lists them; see the module.

    The folder is new or replaced as a whole. It is refused if it holds anything but an earlier manifest.

    Args:
        images: of `realera.store.images.SCHEMA`, in one table or in several, of which one is held at a time.
        folder: for the detector.

    Raises:
        ArtifactError: there are no images, an image_id is there twice, an image cannot be decoded, or
            the folder holds something else or cannot be written.
    """
    folder = Path(folder)
    _check_folder(folder)
    seen: set[str] = set()
    with atomic_path(folder) as temporary:
        (temporary / "images").mkdir(parents=True)
        text = io.StringIO()
        writer = csv.DictWriter(text, MANIFEST_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in _each_row([images] if isinstance(images, pa.Table) else images):
            decode_png(row["png"], row["image_id"], str(folder))
            if row["image_id"] in seen:
                raise ArtifactError(f"{folder}: image_id: found {row['image_id']!r} twice; accepted: each image once")
            file = f"images/{len(seen):06d}.png"
            seen.add(row["image_id"])
            (temporary / file).write_bytes(row["png"])
            writer.writerow(row | {"file": file, "sha256": hashlib.sha256(row["png"]).hexdigest()})
        if not seen:
            raise ArtifactError(f"{folder}: no images to list; accepted: at least one")
        (temporary / MANIFEST).write_text(text.getvalue(), encoding="utf-8", newline="")


def read_predictions(
    path: str | Path, image_ids: Collection[str], others: Collection[str] = ()
) -> dict[str, list[Face]]:
    """Return the faces of every image, in the detector's order; none for an image without a face.

    Args:
        path: the detector's CSV; see the module.
        image_ids: of the images that are judged.
        others: models whose images may be in the file, too, and are judged elsewhere: their rows are passed over.

    Raises:
        ArtifactError: the file is missing, empty or no such CSV, or a row doesn't fit; the line is
            named. Images that no row names are an error too: none is left out in silence.
    """
    path = existing_file(path)
    known = set(image_ids)
    found: dict[str, _Faces] = {}
    for line, cells in _rows(path):
        where = (path, line)
        name = cells["image_id"]
        if name not in known and name.rpartition("-")[0] in others:
            continue
        if name not in known:
            raise _error(where, "image_id", name, "images of the manifest")
        _add(found, name, _prediction(cells, where), where)
    if missing := sorted(known - set(found)):
        raise ArtifactError(
            f"{path}: found no row for {len(missing)} images of the manifest, the first {missing[0]!r}; "
            "accepted: a row for each, with an empty face where there is none"
        )
    return {name: _in_order(name, found[name], path) for name in image_ids}


def _check_folder(folder: Path) -> None:
    if folder.is_dir() and (strange := sorted({path.name for path in folder.iterdir()} - {MANIFEST, "images"})):
        raise ArtifactError(f"{folder}: found {strange[0]!r}; accepted: a new folder, or one of an earlier manifest")


def _each_row(tables: Iterable[pa.Table]) -> Iterator[dict[str, Any]]:
    for table in tables:
        yield from table.select(SCHEMA.names).to_pylist()


def _rows(path: Path) -> Iterator[tuple[int, _Cells]]:
    """Yield (line, the cells of COLUMNS); blank lines are passed over."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        _check_header(header, path)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise _error((path, reader.line_num), "row", f"{len(row)} cells", f"{len(header)}, as in the header")
            cells = dict(zip(header, row, strict=True))
            yield reader.line_num, {name: cells[name] for name in COLUMNS}
    except csv.Error as error:
        raise ArtifactError(f"{path}: line {reader.line_num}: not readable as CSV: {error}") from error


def _text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ArtifactError(f"{path}: line {line}: found bytes that are not UTF-8; accepted: UTF-8") from error
    if not text.strip():
        raise ArtifactError(f"{path}: found an empty file; accepted: CSV with the columns {', '.join(COLUMNS)}")
    return text


def _check_header(header: list[str], path: Path) -> None:
    if missing := [name for name in COLUMNS if name not in header]:
        raise ArtifactError(f"{path}: no column {missing}; it has {header}")
    if twice := [name for name in COLUMNS if header.count(name) > 1]:
        raise ArtifactError(f"{path}: found the column {twice[0]!r} twice; accepted: once")


def _prediction(cells: _Cells, where: _Place) -> tuple[int, str, float] | None:
    """Return (face, label, probability) of a row; None for an image without a face."""
    rest = [cells[name] for name in COLUMNS[1:]]
    if not any(rest):
        return None
    if not all(rest):
        empty = next(name for name in COLUMNS[1:] if not cells[name])
        raise _error(where, empty, "", "face, label and probability all filled, or all empty where there is no face")
    face, label, probability = rest
    if not (face.isascii() and face.isdigit() and len(face) <= 9):
        raise _error(where, "face", face, "0, 1, ...")
    return int(face), label, _probability(probability, where)


def _probability(text: str, where: _Place) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise _error(where, "probability", text, "0 to 1")
    return value


def _add(found: dict[str, _Faces], name: str, prediction: tuple[int, str, float] | None, where: _Place) -> None:
    """Add a row to an image's faces; an image without a face has an empty dictionary."""
    before = found.get(name)
    if prediction is None:
        if before is not None:
            raise _error(where, "image_id", name, "one row for an image without a face, and none beside it")
        found[name] = {}
        return
    if before == {}:
        raise _error(where, "image_id", name, "no face in a row before this one, so none here")
    face, label, probability = prediction
    labels = found.setdefault(name, {}).setdefault(face, {})
    if label in labels:
        raise _error(where, "label", label, f"each label once for face {face} of image {name!r}")
    labels[label] = probability


def _in_order(name: str, faces: _Faces, path: Path) -> list[Face]:
    if missing := set(range(len(faces))) - set(faces):
        raise ArtifactError(
            f"{path}: image {name!r}: found face {max(faces)} but no face {min(missing)}; accepted: all"
        )
    return [sorted(faces[index].items(), key=lambda pair: -pair[1]) for index in range(len(faces))]


def _error(where: _Place, column: str, found: str, accepted: str) -> ArtifactError:
    path, line = where
    return ArtifactError(f"{path}: line {line}: {column}: found {found!r}; accepted: {accepted}")
