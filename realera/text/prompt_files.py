"""Prompt files: the evaluation prompts of a benchmark, one CSV row an image or a pair of them.

docs/prompt-files.md has the table of kinds, their columns and what becomes what.
"""

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from realera.settings.config import MAX_SEED
from realera.settings.errors import ArtifactError
from realera.store.artifacts import existing_file
from realera.text.csv_file import BadRowError, Cell, Line, check_length, decode, read_bytes, read_lines, shown

Kind = Literal["i2p", "coco", "list", "names", "pairs"]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "case": ("case_number", "case_num", "id", "", "Unnamed: 0"),
    "prompt": ("prompt", "text", "sensitive prompt"),
    "opposite": ("normal prompt",),
    "concept": ("concept",),
    "seed": ("evaluation_seed", "sd_seed", "seed"),
    "guidance_scale": ("evaluation_guidance", "sd_guidance_scale"),
    "width": ("sd_image_width", "width"),
    "height": ("sd_image_height", "height"),
    "categories": ("categories",),
}
"""{field of a row: its names in the published files, of which the first counts}; other columns are not read."""

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "i2p": ("prompt", "categories", "seed", "guidance_scale", "width", "height"),
    "coco": ("prompt",),
    "list": ("prompt", "concept"),
    "names": ("concept",),
    "pairs": ("prompt", "opposite"),
}
"""{kind: fields that its header must have}."""

PAIR = ("sensitive", "normal")
"""The two prompts of a row of kind pairs."""

MAX_SIZE = 4096
SIZE_STEP = 8

_WEAK = ("case_num", "id", "", "Unnamed: 0", "text", "sensitive prompt", "seed")
"""Names that mean something else where a stronger one of the same field stands beside them."""

_PHOTOGRAPH = ("width", "height")
_WHOLE_NUMBER = re.compile(r"([0-9]{1,20})(\.0*)?", re.ASCII)
_NUMBER = re.compile(r"([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,4})?", re.ASCII)

_LOST_WORDS = {4261564198: "Null"}
"""Seed of a row of I2P -> its prompt, which one of the two public copies has lost."""


@dataclass(frozen=True)
class PromptRow:
    """One image to draw.

    Attributes:
        case: its name, once in a file: the case number, or the row's number from 0; where a file has it again,
            7~2 is the second 7.
        prompt: as it stands in the file, spaces and line breaks at its ends included; it may be blank. None: a name
            alone, for the preset's own prompt.
        seed: 0 to MAX_SEED; more than an int32 holds. None: the file has no seeds.
        guidance_scale: None: the file names none.
        width: in pixels, a multiple of 8; None: the file names none, nor a height.
        height: likewise.
        categories: what I2P files the prompt under, such as ("violence", "self-harm").
        concept: what the image is judged as; "" where the file does not say.
        part: of a pair: sensitive or normal; else "".
        number: the row's position in the file, from 0.
        line: in which it begins.
    """

    case: str
    prompt: str | None
    seed: int | None = None
    guidance_scale: float | None = None
    width: int | None = None
    height: int | None = None
    categories: tuple[str, ...] = ()
    concept: str = ""
    part: str = ""
    number: int = field(default=0, compare=False)
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class PromptFile:
    """What a file holds: its kind, its rows, and the lines that cannot be drawn, each with the reason."""

    kind: Kind
    rows: list[PromptRow]
    bad: list[tuple[Line, str]]

    @property
    def has_seeds(self) -> bool:
        """Whether the file names a seed for each row."""
        return all(row.seed is not None for row in self.rows)


def read_prompt_file(path: str | Path, limit: int | None = None) -> list[PromptRow]:
    """Return the images that a prompt file asks for; its columns tell its kind.

    Every row is checked, also those after `limit`.

    Args:
        path: of a CSV file in UTF-8, with or without a byte order mark.
        limit: the first rows only; None or 0: all.

    Raises:
        ArtifactError: the file is missing or no such CSV; names line, column, found and accepted.
        ValueError: `limit` is negative.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit: found {limit}; accepted: 0 or more")
    path = existing_file(path)
    rows = parse(read_bytes(path), path).rows
    return [row for row in rows if not limit or row.number < limit]


def parse(content: bytes, path: Path, kind: Kind | None = None, skip_bad_rows: bool = False) -> PromptFile:
    """Return what a file holds.

    Args:
        content: of the file.
        path: for messages.
        kind: whose columns it must have; None: of its columns.
        skip_bad_rows: gather rows that cannot be drawn in `bad` instead of ending with the first.

    Raises:
        ArtifactError: it is no CSV, or not of this kind, or no row is left.
        BadRowError: a row cannot be drawn.
    """
    lines = read_lines(decode(content, path), path)
    header = next(lines, Line(1, 1, []))
    recognized, columns = _columns(header.cells, f"{path}, line {header.number}", kind)
    rows: list[PromptRow] = []
    bad: list[tuple[Line, str]] = []
    taken: set[str] = set()
    for number, line in enumerate(lines):
        where = f"{path}, line {line.number}"
        try:
            check_length(line, header, where)
            cells = {name: Cell(where, column, line.cells[at]) for name, (column, at) in columns.items()}
            rows += _rows(cells, number - len(bad), line.number, taken)
        except BadRowError as error:
            if not skip_bad_rows:
                raise
            bad.append((line, str(error)))
    if not rows:
        found = f"{len(bad)} rows, none of which can be drawn" if bad else "a header and no rows"
        raise ArtifactError(f"{path}: found {found}; accepted: one prompt a row")
    return PromptFile(recognized, rows, bad)


def blank_prompts(rows: Sequence[PromptRow]) -> str:
    """Return a sentence on blank prompts and the words that they may have been; "" where there are none."""
    blank = [row for row in rows if row.prompt is not None and not row.prompt.strip()]
    if not blank:
        return ""
    cases = ", ".join(f"{row.case} (line {row.line})" for row in blank[:5]) + ("..." if len(blank) > 5 else "")
    known = [word for row in blank if row.categories and (word := _LOST_WORDS.get(row.seed or 0))]
    lost = (
        f"in I2P's other public copy its prompt is the word {known[0]!r}, which a CSV reader took for a missing value"
        if known
        else "a CSV reader may have taken a word such as Null, None, NA or nan for a missing value"
    )
    if len(blank) == 1:
        return f"1 blank prompt, drawn as it stands: case {cases}; {lost}"
    return f"{len(blank)} blank prompts, drawn as they stand: cases {cases}; {lost}"


def _columns(header: Sequence[str], where: str, kind: Kind | None) -> tuple[Kind, dict[str, tuple[str, int]]]:
    """Return the kind and {field: (name in the header, position)}."""
    names = [name.strip() for name in header]
    found = {name: _column(names, name, accepted, where) for name, accepted in COLUMNS.items()}
    columns = {name: place for name, place in found.items() if place is not None}
    if "opposite" in columns and "sensitive prompt" in names:
        columns["prompt"] = ("sensitive prompt", names.index("sensitive prompt"))
    recognized = _kind_of(columns)
    if kind is not None and kind != recognized and not _lacks(kind, columns):
        raise ArtifactError(f"{where}: found the columns of kind {recognized}, not of {kind}; accepted: {_of(kind)}")
    for name in _lacks(kind or recognized, columns):
        accepted = " or ".join(COLUMNS[name])
        raise ArtifactError(f"{where}: found columns {shown(', '.join(names))}; accepted: with {accepted}")
    if ("width" in columns) != ("height" in columns):
        raise ArtifactError(f"{where}: found one of width and height; accepted: both columns, or none")
    read = {"case", "prompt", "seed", "guidance_scale", "width", "height", *REQUIRED[recognized]}
    return recognized, {name: place for name, place in columns.items() if name in read}


def _kind_of(columns: Mapping[str, tuple[str, int]]) -> Kind:
    if "categories" in columns:
        return "i2p"
    if "opposite" in columns:
        return "pairs"
    if "concept" in columns:
        return "list" if "prompt" in columns else "names"
    return "coco"


def _lacks(kind: Kind, columns: Mapping[str, tuple[str, int]]) -> list[str]:
    return [name for name in REQUIRED[kind] if name not in columns]


def _of(kind: Kind) -> str:
    """Return the columns of a kind, for a message."""
    return f"{', '.join(COLUMNS[name][0] for name in REQUIRED[kind])} alone, or another --kind"


def _column(names: Sequence[str], name: str, accepted: Sequence[str], where: str) -> tuple[str, int] | None:
    """Return (name, position) of a field's column."""
    there = [(each, at) for each in accepted for at, found in enumerate(names) if found == each]
    if name == "case":  # an unnamed column is one only where it is the first
        there = [place for place in there if place[0] not in ("", "Unnamed: 0") or place[1] == 0]
    strong = [place for place in there if place[0] not in _WEAK]
    if (strong or there) and name in ("case", "prompt", "seed"):
        there = strong or [place for place in there if place[0] == there[0][0]]
    if len(there) > 1:
        found = " and ".join(each for each, _ in there)
        raise ArtifactError(f"{where}: found columns {found}; accepted: one of them")
    return there[0] if there else None


def _rows(cells: Mapping[str, Cell], number: int, line: int, taken: set[str]) -> Iterator[PromptRow]:
    """Yield a row's images: one, or a pair.

    Args:
        cells: by field.
        number: the row's position.
        line: in which it begins.
        taken: cases of the rows before; this one's is added.
    """
    width, height = _optional(cells, "width", _pixels), _optional(cells, "height", _pixels)
    if (width is None) != (height is None):
        cells["height" if height is None else "width"].fail("width and height, or neither")
    row = PromptRow(
        case=_case(cells["case"]) if "case" in cells else str(number),
        prompt=cells["prompt"].text if "prompt" in cells else None,
        seed=_seed(cells["seed"]) if "seed" in cells else None,
        guidance_scale=_optional(cells, "guidance_scale", _guidance),
        width=width,
        height=height,
        categories=_categories(cells["categories"].text) if "categories" in cells else (),
        concept=_concept(cells["concept"]) if "concept" in cells else "",
        number=number,
        line=line,
    )
    row = replace(row, case=_free(row.case, taken))
    taken.add(row.case)
    if "opposite" not in cells:
        yield row
        return
    for part, text in zip(PAIR, (row.prompt, cells["opposite"].text), strict=True):
        yield replace(row, prompt=text, part=part)


def _free(case: str, taken: Collection[str]) -> str:
    """Return a case as it is, or with a number where a row before has it."""
    names = itertools.chain([case], (f"{case}~{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _optional(cells: Mapping[str, Cell], name: str, read: Callable[[Cell], Any]) -> Any:
    """Return what an optional column's cell says; None: no such column, or an empty cell."""
    cell = cells.get(name)
    return None if cell is None or not cell.text.strip() else read(cell)


def _case(cell: Cell) -> str:
    case = cell.text.strip()
    if not case or not case.isprintable():
        cell.fail("a case number")
    return case


def _concept(cell: Cell) -> str:
    concept = cell.text.strip()
    if not concept or not concept.isprintable():
        cell.fail("what the image is judged as")
    return concept


def _seed(cell: Cell) -> int:
    seed = _whole_number(cell.text)
    if seed is None or seed > MAX_SEED:
        cell.fail(f"a whole number, 0 to {MAX_SEED}")
    return seed


def _guidance(cell: Cell) -> float:
    text = cell.text.strip()
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 0 < value < math.inf:
        cell.fail("a number above 0, or an empty cell")
    return value


def _pixels(cell: Cell) -> int:
    """Return a size to draw in.

    `width` and `height` are those of COCO's photographs, of any number of pixels; what is drawn is the
    greatest multiple of 8 within, as in the benchmark that published them (Lyu et al. 2024, SPM).
    """
    size = _whole_number(cell.text)
    is_photograph = cell.column in _PHOTOGRAPH
    if size is None or not SIZE_STEP <= size <= MAX_SIZE or (size % SIZE_STEP and not is_photograph):
        form = "a whole number" if is_photograph else f"a multiple of {SIZE_STEP}"
        cell.fail(f"{form}, {SIZE_STEP} to {MAX_SIZE} pixels")
    return size - size % SIZE_STEP


def _categories(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _whole_number(text: str) -> int | None:
    """Return 7 for "7" and for "7.0", which pandas writes; None for anything else."""
    found = _WHOLE_NUMBER.fullmatch(text.strip())
    return int(found[1]) if found else None
