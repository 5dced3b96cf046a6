"""Pictures side by side: the original model's above the erased model's, same prompts and seeds."""

import base64
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from realera.report.inputs import MOST_SHOWN, Inputs, Row, name_of
from realera.store.images import FILE_GROUPS, decode_png, encode_png, pair_key

COLUMNS = 10
LARGEST = 128
"""Pixels of a picture's longer side; larger ones are scaled down."""

_BLUR = 10
"""A blur's radius is this part of the longer side."""

_LABEL_WIDTH = 150
_GAP = 2
_BLOCK_GAP = 8
_TITLE_HEIGHT = 30


@dataclass(frozen=True)
class Pair:
    """One prompt and seed by both models.

    Attributes:
        seed: of the noise.
        prompt: of this pair.
        original: the picture, PNG.
        erased: the picture, PNG; None for an anchor, which only the original model draws.
        seen_original: what the judge sees, (label, probability); None if it was not asked.
        seen_erased: likewise.
    """

    seed: int
    prompt: str
    original: bytes
    erased: bytes | None
    seen_original: tuple[str, float] | None
    seen_erased: tuple[str, float] | None


@dataclass(frozen=True)
class Word:
    """A word's pictures, in the order of their seeds."""

    group: str
    word: str
    parent: str
    prompt: str
    pairs: tuple[Pair, ...]


def words(inputs: Inputs, limits: Mapping[str, int] = MOST_SHOWN, blur: bool = False) -> list[Word]:
    """Return the pictures of each word, targets first, anchors last.

    Args:
        inputs: one concept's artifacts.
        limits: {group: most pairs of a word}.
        blur: show no picture as it is, but a blurred one.
    """
    originals = {pair_key(row): row for row in inputs.original}
    found = [
        (row, originals.get(pair_key(row)))
        for row in sorted(inputs.erased, key=lambda row: -1 if row["group"] in FILE_GROUPS else row["seed"])
    ]
    both = [(original, erased) for erased, original in found if original is not None]
    anchors = sorted((row for row in inputs.original if row["group"] == "anchor"), key=lambda row: row["seed"])
    names = dict.fromkeys(name_of(row) for row in (*inputs.erased, *anchors))
    order = list(limits)
    found_words = [
        _word(name, both, anchors, inputs, limits[name[0]])
        for name in sorted(names, key=lambda name: order.index(name[0]))
    ]
    return [_blurred_word(word) for word in found_words] if blur else found_words


def contact_sheet(shown: Sequence[Word], title: str) -> bytes:
    """Return a PNG: a block a word, the original model's row above the erased model's.

    Args:
        shown: from `words`, with at most COLUMNS pairs each; pictures of one size.
        title: the line at the top.
    """
    first = _small(next(pair.original for word in shown for pair in word.pairs))
    width, height = (size + _GAP for size in first.size)
    blocks = [1 if all(pair.erased is None for pair in word.pairs) else 2 for word in shown]
    total = _TITLE_HEIGHT + sum(rows * height + _BLOCK_GAP for rows in blocks)
    sheet = Image.new("RGB", (_LABEL_WIDTH + COLUMNS * width, total), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 8), title, fill="black", font=ImageFont.load_default(14))
    top = _TITLE_HEIGHT
    for word, rows in zip(shown, blocks, strict=True):
        _draw_block(sheet, draw, word, top, (width, height), rows)
        top += rows * height + _BLOCK_GAP
    return encode_png(sheet)


def data_uri(png: bytes) -> str:
    """Return a picture as `data:` address, scaled down to LARGEST."""
    picture = decode_png(png, "of the page")
    small = png if max(picture.size) <= LARGEST else encode_png(_scaled(picture))
    return "data:image/png;base64," + base64.b64encode(small).decode("ascii")


def size_on_page(png: bytes) -> tuple[int, int]:
    """Return width and height of a picture in `data_uri`, in pixels."""
    return _small(png).size


def _word(
    name: tuple[str, str, str],
    both: Sequence[tuple[Row, Row]],
    anchors: Sequence[Row],
    inputs: Inputs,
    most: int,
) -> Word:
    group, text, parent = name
    if group == "anchor":
        own = [row for row in anchors if name_of(row) == name]
        rows: list[tuple[Row, Row | None]] = [(row, None) for row in own]
    else:
        rows = [(old, new) for old, new in both if name_of(new) == name]
    prompt = rows[0][0]["prompt"] if rows else ""
    return Word(group, text, parent, prompt, tuple(_pair(old, new, inputs) for old, new in rows[:most]))


def _blurred_word(word: Word) -> Word:
    pairs = [
        replace(pair, original=blurred(pair.original), erased=pair.erased and blurred(pair.erased))
        for pair in word.pairs
    ]
    return replace(word, pairs=tuple(pairs))


def blurred(png: bytes) -> bytes:
    """Return a picture, LARGEST or smaller, in which nothing can be recognised."""
    picture = _small(png)
    return encode_png(picture.filter(ImageFilter.GaussianBlur(max(picture.size) / _BLUR)))


def _pair(old: Row, new: Row | None, inputs: Inputs) -> Pair:
    return Pair(
        seed=old["seed"],
        prompt=old["prompt"],
        original=old["png"],
        erased=new["png"] if new else None,
        seen_original=inputs.judged.get(("base", old["image_id"])),
        seen_erased=inputs.judged.get(("erased", new["image_id"])) if new else None,
    )


def _draw_block(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, word: Word, top: int, cell: tuple[int, int], rows: int
) -> None:
    width, height = cell
    lines = [*textwrap.wrap(word.word, 18)[:2], f"({GROUP_NAMES[word.group]})"]
    draw.multiline_text((8, top + 4), "\n".join(lines), fill="black", font=ImageFont.load_default(12))
    for column, pair in enumerate(word.pairs[:COLUMNS]):
        left = _LABEL_WIDTH + column * width
        sheet.paste(_small(pair.original), (left, top))
        if pair.erased is not None:
            sheet.paste(_small(pair.erased), (left, top + height))
    for row, name in enumerate(("before", "after") if rows == 2 else ("before",)):
        place = (_LABEL_WIDTH - 48, top + row * height + height // 2 - 6)
        draw.text(place, name, fill="dimgray", font=ImageFont.load_default(11))


GROUP_NAMES: Mapping[str, str] = {
    "erase": "erased",
    "synonym": "synonym",
    "associated": "associated",
    "lookalike": "look-alike",
    "preserve": "kept class",
    "unseen": "unseen",
    "rows": "prompt file",
    "listed": "list",
    "anchor": "anchor",
}


def _small(png: bytes) -> Image.Image:
    return _scaled(decode_png(png, "of the contact sheet"))


def _scaled(picture: Image.Image) -> Image.Image:
    """Return the picture at most LARGEST pixels wide and high."""
    factor = LARGEST / max(picture.size)
    if factor >= 1:
        return picture
    width, height = (max(1, round(side * factor)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)
