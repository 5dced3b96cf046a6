"""Tables of images: one row an image, PNG bytes in a column, as the `datasets` library has them."""

import io

import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from realera.errors import ArtifactError

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
