"""Contact sheets: rows of drawings with their word beside them. The first seeds are shown, never chosen ones."""

import io
from collections.abc import Sequence

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

CELL, LABEL = 64, 150


def sheet(rows: Sequence[tuple[str, pd.DataFrame]], per_row: int, columns: int = 1) -> Image.Image:
    """`rows` of (label, drawings); `columns` rows stand side by side."""
    num_lines = max(1, -(-len(rows) // columns))
    width = LABEL + per_row * CELL
    picture = Image.new("RGB", (columns * width, num_lines * CELL), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for i, (label, drawings) in enumerate(rows):
        column, line = divmod(i, num_lines)
        left, top = column * width, line * CELL
        pen.text((left + 6, top + CELL // 2), label, fill="black", font=font, anchor="lm")
        for j, png in enumerate(drawings["png"].iloc[:per_row]):
            picture.paste(Image.open(io.BytesIO(png)), (left + LABEL + j * CELL, top))
    return picture


def all_sheets(drawings: pd.DataFrame, drawn_well: Sequence[str]) -> dict[str, Image.Image]:
    """{file stem: picture} for the card."""
    by_word = dict(iter(drawings.groupby(["role", "word", "tier"], sort=False)))
    classes = [(w, g) for (role, w, tier), g in by_word.items() if role == "name" and tier == "classes"]
    synonyms = [(w, g) for (role, w, _), g in by_word.items() if role == "synonym"]
    others = [(w, g) for (role, w, tier), g in by_word.items() if role == "name" and tier != "classes"]
    well = [(w, g) for w, g in others if w in set(drawn_well)]
    return {
        "classes": sheet(classes, 12),
        "synonyms": sheet(synonyms, 8, columns=2),
        "concepts": sheet(well[:: max(1, len(well) // 60)][:60], 4, columns=3),
        "vocabulary": sheet(others, 3, columns=5),
        "styles": _style_sheet(drawings[drawings["role"] == "style"]),
    }


def _style_sheet(drawings: pd.DataFrame) -> Image.Image:
    """A row a style, a column a class."""
    rows = [
        (style, group.groupby("word", sort=False).head(1)) for style, group in drawings.groupby("style", sort=False)
    ]
    return sheet(rows, drawings["word"].nunique())
