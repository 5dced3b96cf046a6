"""Prompt files: the evaluation prompts of a benchmark, one CSV row an image (I2P, COCO captions).

Read with Python's csv module: pandas takes the prompts "None" and "NA" for missing cells, turns seeds
into floats where a cell is empty, and says little about where a file is broken.
"""

import csv
import hashlib
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from realera.settings import project
from realera.settings.config import CONCEPT_NAME
from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import PROMPT_FILES
from realera.store.artifacts import atomic_path, existing_file

Kind = Literal["i2p", "coco"]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "case": ("case_number", "", "Unnamed: 0"),
    "prompt": ("prompt",),
    "seed": ("evaluation_seed", "sd_seed"),
    "guidance_scale": ("evaluation_guidance", "sd_guidance_scale"),
    "width": ("sd_image_width", "width"),
    "height": ("sd_image_height", "height"),
    "categories": ("categories",),
}
"""{field of PromptRow: its names in the published files}; other columns are not read."""

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "i2p": ("prompt", "categories", "seed", "guidance_scale", "width", "height"),
    "coco": ("prompt", "seed"),
}
"""{kind: fields that its header must have}."""

MAX_SEED = 2**32 - 1
"""torch's generator on the CPU reads the low 32 bits: greater seeds would repeat smaller ones' noise."""

MAX_SIZE = 4096
SIZE_STEP = 8

_PHOTOGRAPH = ("width", "height")
_WHOLE_NUMBER = re.compile(r"([0-9]{1,20})(\.0*)?", re.ASCII)
_NUMBER = re.compile(r"([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,4})?", re.ASCII)
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # one slash: all that a Path keeps of two
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class PromptRow:
    """One row of a prompt file: one image to draw.

    Attributes:
        case: its name, once in a file: the case number, or the row's number from 0.
        prompt: as it stands in the file, spaces and line breaks at its ends included.
        seed: 0 to MAX_SEED; more than an int32 holds.
        guidance_scale: None: the file names none.
        width: in pixels, a multiple of 8; None: the file names none, nor a height.
        height: likewise.
        categories: what I2P files the prompt under, such as ("violence", "self-harm").
    """

    case: str
    prompt: str
    seed: int
    guidance_scale: float | None = None
    width: int | None = None
    height: int | None = None
    categories: tuple[str, ...] = ()


def read_prompt_file(path: str | Path, limit: int | None = None) -> list[PromptRow]:
    """Return the rows of an I2P or COCO captions CSV; a column `categories` tells I2P.

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
    return _parse(_read_bytes(path), path)[: limit or None]


def add(
    source: str | Path,
    kind: Kind,
    target_folder: Path = PROMPT_FILES,
    name: str | None = None,
    sha256: str | None = None,
    force: bool = False,
) -> Path:
    """Copy a prompt file into the project as <target_folder>/<name>.csv, if all of it can be used.

    The file stays as it is, byte for byte, and nothing is fetched.

    Args:
        source: a local file.
        kind: "i2p" or "coco": the columns that it must have.
        target_folder: as seen from the working folder, else from the project.
        name: by which presets call it in `draw.prompt_files`; None: the kind.
        sha256: what the file's bytes must hash to; None: anything.
        force: replace a file of that name with other content.

    Returns:
        The path of the copy.

    Raises:
        ConfigError: a name, kind or checksum of another form, or a file of that name with other content.
        ArtifactError: the file is missing, is not what `sha256` or `kind` say, or has a bad row.
    """
    _check_options(str(source), kind, name, sha256)
    source = existing_file(source)
    content = _read_bytes(source)
    _check_sha256(content, source, sha256)
    _parse(content, source, kind)
    folder = project.find(target_folder) or target_folder
    return _write(content, folder / f"{kind if name is None else name}.csv", force)


def _check_options(source: str, kind: str, name: str | None, sha256: str | None) -> None:
    if _URL.match(source):
        raise ConfigError(f"source: found {source!r}; accepted: a local file; `dvc import-url` fetches one")
    if kind not in REQUIRED:
        raise ConfigError(f"kind: found {kind!r}; accepted: {', '.join(REQUIRED)}")
    if name is not None and not re.fullmatch(CONCEPT_NAME, name):
        raise ConfigError(f"name: found {name!r}; accepted: small letters, digits, - and _, without .csv")
    if sha256 is not None and not _SHA256.fullmatch(sha256.strip().lower()):
        raise ConfigError(f"sha256: found {sha256!r}; accepted: 64 hexadecimal digits")


def _check_sha256(content: bytes, path: Path, sha256: str | None) -> None:
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.strip().lower():
        raise ArtifactError(f"{path}: found SHA-256 {found}; accepted: {sha256.strip().lower()}, as given")


def _write(content: bytes, path: Path, force: bool) -> Path:
    if path.is_dir():
        raise ConfigError(f"{path}: found a folder; accepted: a new name, or a file to replace")
    if path.exists():
        there = _read_bytes(path)
        if there == content:
            return path
        if not force:
            found = hashlib.sha256(there).hexdigest()
            raise ConfigError(f"{path}: found other content (SHA-256 {found}); accepted: another name, or force")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def _parse(content: bytes, path: Path, kind: Kind | None = None) -> list[PromptRow]:
    """Return the checked rows; without a kind, that of the header."""
    lines = _lines(_decode(content, path), path)
    line, header = next(lines, (1, []))
    columns = _columns(header, f"{path}, line {line}", kind)
    rows: list[PromptRow] = []
    first_lines: dict[str, int] = {}
    for line, cells in lines:
        where = f"{path}, line {line}"
        if len(cells) != len(header):
            raise ArtifactError(f"{where}: found {len(cells)} cells; accepted: {len(header)}, as in the header")
        row = _row({field: _Cell(where, name, cells[at]) for field, (name, at) in columns.items()}, str(len(rows)))
        if row.case in first_lines:
            _fail(where, columns["case"][0], row.case, f"each case once, it is also in line {first_lines[row.case]}")
        first_lines[row.case] = line
        rows.append(row)
    if not rows:
        raise ArtifactError(f"{path}: found a header and no rows; accepted: one prompt a row")
    return rows


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error


def _decode(content: bytes, path: Path) -> str:
    if not content.strip():
        raise ArtifactError(f"{path}: found an empty file; accepted: a CSV file with a header")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _line_at(content[: error.start])
        found = f"byte 0x{error.object[error.start]:02x}"
        raise ArtifactError(f"{path}, line {line}: found {found}, no UTF-8; accepted: text in UTF-8") from error
    if "\0" in text:
        line = _line_at(content[: content.index(b"\0")])
        raise ArtifactError(f"{path}, line {line}: found a NUL character; accepted: text in UTF-8 (not UTF-16)")
    return text


def _line_at(before: bytes) -> int:
    return len(before.splitlines()) + (before[-1:] in (b"", b"\n", b"\r"))


def _lines(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line in which a row begins, its cells); blank lines hold no row.

    Strict, so that a quote that is never closed is an error and does not swallow the rows after it.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise ArtifactError(f"{path}, line {start}: found {error}; accepted: a CSV row") from error


def _columns(header: Sequence[str], where: str, kind: Kind | None) -> dict[str, tuple[str, int]]:
    """Return {field: (name in the header, position)}."""
    names = [name.strip() for name in header]
    found = {field: _column(names, field, accepted, where) for field, accepted in COLUMNS.items()}
    columns = {field: place for field, place in found.items() if place is not None}
    recognized: Kind = "i2p" if "categories" in columns else "coco"
    if (kind, recognized) == ("coco", "i2p"):
        raise ArtifactError(f"{where}: found column categories, an I2P file; accepted: captions, or kind i2p")
    for field in REQUIRED[kind or recognized]:
        if field not in columns:
            accepted = " or ".join(COLUMNS[field])
            raise ArtifactError(f"{where}: found columns {_shown(', '.join(names))}; accepted: with {accepted}")
    if ("width" in columns) != ("height" in columns):
        raise ArtifactError(f"{where}: found one of width and height; accepted: both columns, or none")
    return columns


def _column(names: Sequence[str], field: str, accepted: Sequence[str], where: str) -> tuple[str, int] | None:
    """Return (name, position) of a field's column; a case number goes before the number of the row beside it."""
    there = [(name, at) for name in accepted for at, found in enumerate(names) if found == name]
    if field == "case":
        there = [place for place in there if place[0] == "case_number"] or [place for place in there if place[1] == 0]
    if len(there) > 1:
        found = " and ".join(name for name, _ in there)
        raise ArtifactError(f"{where}: found columns {found}; accepted: one of them")
    return there[0] if there else None


@dataclass(frozen=True)
class _Cell:
    where: str
    column: str
    text: str


def _row(cells: Mapping[str, _Cell], number: str) -> PromptRow:
    width, height = _optional(cells, "width", _pixels), _optional(cells, "height", _pixels)
    if (width is None) != (height is None):
        cell = cells["height" if height is None else "width"]
        _fail(cell.where, cell.column, cell.text, "width and height, or neither")
    return PromptRow(
        case=_case(cells["case"]) if "case" in cells else number,
        prompt=_prompt(cells["prompt"]),
        seed=_seed(cells["seed"]),
        guidance_scale=_optional(cells, "guidance_scale", _guidance),
        width=width,
        height=height,
        categories=_categories(cells["categories"].text) if "categories" in cells else (),
    )


def _optional(cells: Mapping[str, _Cell], field: str, read: Callable[[_Cell], Any]) -> Any:
    """Return what an optional column's cell says; None: no such column, or an empty cell."""
    cell = cells.get(field)
    return None if cell is None or not cell.text.strip() else read(cell)


def _case(cell: _Cell) -> str:
    case = cell.text.strip()
    if not case or not case.isprintable():
        _fail(cell.where, cell.column, cell.text, "a case number")
    return case


def _prompt(cell: _Cell) -> str:
    if not cell.text.strip():
        _fail(cell.where, cell.column, cell.text, "a prompt that is not blank")
    return cell.text


def _seed(cell: _Cell) -> int:
    seed = _whole_number(cell.text)
    if seed is None or seed > MAX_SEED:
        _fail(cell.where, cell.column, cell.text, f"a whole number, 0 to {MAX_SEED}")
    return seed


def _guidance(cell: _Cell) -> float:
    text = cell.text.strip()
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 0 < value < math.inf:
        _fail(cell.where, cell.column, cell.text, "a number above 0, or an empty cell")
    return value


def _pixels(cell: _Cell) -> int:
    """Return a size to draw in.

    `width` and `height` are those of COCO's photographs, of any number of pixels; what is drawn is the
    greatest multiple of 8 within, as in the benchmark that published them (Lyu et al. 2024, SPM).
    """
    size = _whole_number(cell.text)
    is_photograph = cell.column in _PHOTOGRAPH
    if size is None or not SIZE_STEP <= size <= MAX_SIZE or (size % SIZE_STEP and not is_photograph):
        form = "a whole number" if is_photograph else f"a multiple of {SIZE_STEP}"
        _fail(cell.where, cell.column, cell.text, f"{form}, {SIZE_STEP} to {MAX_SIZE} pixels")
    return size - size % SIZE_STEP


def _categories(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _whole_number(text: str) -> int | None:
    """Return 7 for "7" and for "7.0", which pandas writes; None for anything else."""
    found = _WHOLE_NUMBER.fullmatch(text.strip())
    return int(found[1]) if found else None


def _fail(where: str, column: str, found: str, accepted: str) -> NoReturn:
    raise ArtifactError(f"{where}: column {column or '(unnamed)'}: found {_shown(found)}; accepted: {accepted}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}...")
