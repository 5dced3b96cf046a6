"""Tables of images: one row an image, PNG bytes in a column, as the `datasets` library has them."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from realera.settings.errors import ArtifactError
from realera.store.artifacts import read_parquet_blocks

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("group", pa.string()),
        ("word", pa.string()),
        ("parent", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("png", pa.binary()),
    ]
)

KNOWN = pa.schema([field for field in SCHEMA if field.name != "png"])
"""What is known of an image beside its picture; all that a table of many images may hold in memory."""

FILE_GROUPS = ("rows", "listed")
"""Groups of images that are drawn for the rows of prompt files, one each."""

_ROWS_AT_ONCE = 64


def read_rows(path: Path, index: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield some rows of a table of images in their order; pictures are read a few at a time and not kept.

    Args:
        path: of a table of SCHEMA.
        index: rows, ascending.

    Raises:
        ArtifactError: the file is missing or corrupt, lacks a column, or has one of another type.
    """
    wanted, start = np.asarray(index, dtype=np.int64), 0
    for block in read_parquet_blocks(path, SCHEMA, _ROWS_AT_ONCE):
        first, last = np.searchsorted(wanted, [start, start + block.num_rows])
        inside = pa.array(wanted[first:last] - start)
        yield from block.select(SCHEMA.names).take(inside).to_pylist()
        start += block.num_rows


def pair_key(row: Mapping[str, Any]) -> tuple:
    """Return what the two images of a pair have in common."""
    return tuple(row[name] for name in ("word", "parent", "prompt", "seed"))


def encode_png(image: Image.Image) -> bytes:
    """Return an image's PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def decode_png(content: bytes, image_id: str, source: str = "images") -> Image.Image:
    """Return the RGB image.

    Raises:
        ArtifactError: the bytes are no readable image; it names `source` and `image_id`.
    """
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ArtifactError(f"{source}: image {image_id}: not a readable image: {error}") from error
