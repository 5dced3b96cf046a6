"""CSV files of others: their text, the line in which each row begins, what is wrong with one.

Read with Python's csv module: pandas takes the prompts "None" and "NA" for missing cells, turns seeds
into floats where a cell is empty, and says little about where a file is broken.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from realera.settings.errors import ArtifactError

_SHOWN_CHARACTERS = 60


class BadRowError(ArtifactError):
    """A row that cannot be drawn; the others can."""


@dataclass(frozen=True)
class Cell:
    """One cell: where it stands, the name of its column, its text."""

    where: str
    column: str
    text: str

    def fail(self, accepted: str) -> NoReturn:
        """Refuse the row.

        Raises:
            BadRowError: always; it names line, column, what was found and what is accepted.
        """
        raise BadRowError(
            f"{self.where}: column {self.column or '(unnamed)'}: found {shown(self.text)}; accepted: {accepted}"
        )


@dataclass(frozen=True)
class Line:
    """One row.

    Attributes:
        number: the line in which it begins, from 1, as a text editor counts.
        last: the line in which it ends.
        cells: its texts.
    """

    number: int
    last: int
    cells: list[str]


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error


def decode(content: bytes, path: Path) -> str:
    """Return a CSV file's text, without byte order mark.

    Raises:
        ArtifactError: it is empty, or no UTF-8.
    """
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


def read_lines(text: str, path: Path) -> Iterator[Line]:
    """Yield the rows, the header first; blank lines hold none.

    Strict, so that a quote that is never closed is an error and does not swallow the rows after it.

    Raises:
        ArtifactError: the text is no CSV.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        for cells in reader:
            if cells:
                yield Line(start, reader.line_num, cells)
            start = reader.line_num + 1
    except csv.Error as error:
        raise ArtifactError(f"{path}, line {start}: found {error}; accepted: a CSV row") from error


def without_lines(text: str, left_out: list[Line]) -> str:
    """Return the text without some rows; the others stay as they are, to the byte."""
    gone = {number for line in left_out for number in range(line.number, line.last + 1)}
    lines = io.StringIO(text, newline="").readlines()
    return "".join(line for number, line in enumerate(lines, start=1) if number not in gone)


def check_length(line: Line, header: Line, where: str) -> None:
    """Refuse a row with more or fewer cells than the header.

    Raises:
        BadRowError: so it is; the row's beginning is shown.
    """
    found, needed = len(line.cells), len(header.cells)
    if found == needed:
        return
    hint = "quotes may be missing around a text with a comma" if found > needed else "cells may be missing"
    begins = shown(",".join(line.cells))
    raise BadRowError(f"{where}: found {found} cells ({hint}): {begins}; accepted: {needed}, as in the header")


def shown(text: str) -> str:
    """Return a text for a message: on one line, cut where it is long."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}...")


def _line_at(before: bytes) -> int:
    return len(before.splitlines()) + (before[-1:] in (b"", b"\n", b"\r"))
