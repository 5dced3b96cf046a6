"""Prompt files come into the project: checked whole, copied as they are."""

import hashlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from realera.settings import project
from realera.settings.config import CONCEPT_NAME
from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import PROMPT_FILES, Preset, prompt_file
from realera.store.artifacts import atomic_path, existing_file, read_json, write_json
from realera.text.csv_file import BadRowError, decode, read_bytes, without_lines
from realera.text.prompt_files import Kind, PromptFile, PromptRow, blank_prompts, parse, read_prompt_file

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # one slash: all that a Path keeps of two
_NAME = "small letters, digits, - and _, without .csv"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Added:
    """What has come into the project: the copy's path, and what is in it."""

    path: Path
    file: PromptFile

    def line(self) -> str:
        """Return what a person should know of it."""
        number = len({row.number for row in self.file.rows})
        parts = [f"{self.path}: {number} {'prompts' if self.file.kind != 'names' else 'names'} ({self.file.kind})"]
        if not self.file.has_seeds:
            parts.append("no column of seeds: they count up from generate.seed")
        if self.file.bad:
            parts.append(f"{len(self.file.bad)} rows left out, the first: {self.file.bad[0][1]}")
        return "; ".join(parts)


def add(
    source: str | Path,
    kind: str | None = None,
    target_folder: Path = PROMPT_FILES,
    name: str | None = None,
    sha256: str | None = None,
    force: bool = False,
    skip_bad_rows: bool = False,
) -> Added:
    """Copy a prompt file into the project as <target_folder>/<name>.csv, if all of it can be used.

    The file stays as it is, byte for byte, but for rows that are left out, and nothing is fetched. A blank prompt is
    drawn as it stands, and warned of.

    Args:
        source: a local file.
        kind: the columns that it must have; None: its columns tell.
        target_folder: as seen from the working folder, else from the project.
        name: by which presets call it in `draw.prompt_files`; None: the kind that is given, i2p for a file of that
            kind, else the file's own.
        sha256: what the file's bytes must hash to; None: anything.
        force: replace a file of that name with other content.
        skip_bad_rows: leave out rows that cannot be drawn, and write their number beside the copy.

    Raises:
        ConfigError: a name, kind or checksum of another form, or a file of that name with other content.
        ArtifactError: the file is missing, is not what `sha256` or `kind` say, or has a bad row.
    """
    _check_options(str(source), kind, name, sha256)
    source = existing_file(source)
    content = read_bytes(source)
    _check_sha256(content, source, sha256)
    try:
        file = parse(content, source, cast(Kind | None, kind), skip_bad_rows)
    except BadRowError as error:
        raise ArtifactError(f"{error}; --skip-bad-rows leaves such rows out") from error
    _warn_blank(file.rows, source)
    path = (project.find(target_folder) or target_folder) / f"{name or _name(source, kind, file.kind)}.csv"
    if file.bad:
        content = without_lines(decode(content, source), [line for line, _ in file.bad]).encode("utf-8")
    _write(content, path, force)
    if path.resolve() != source.resolve():
        _write_skipped(file, skipped_file(path), source)
    return Added(path, file)


def skipped_file(path: Path) -> Path:
    """Return the file beside a prompt file that says which rows were left out of it."""
    return path.with_suffix(".skipped.json")


def skipped_rows(preset: Preset) -> dict[str, int]:
    """Return how many rows each of a preset's prompt files lacks, where any were left out when it was added.

    Raises:
        ConfigError: there is no such prompt file.
        ArtifactError: the file that says so is corrupt.
    """
    found = {}
    for name in preset.draw.prompt_files:
        path = skipped_file(prompt_file(name))
        if path.exists():
            content = read_json(path)
            rows = content.get("rows") if isinstance(content, dict) else None
            if not isinstance(rows, list):
                raise ArtifactError(f"{path}: found no list of rows; `realera data add` makes it anew")
            found[name] = len(rows)
    return found


def warn_blank(path: Path) -> None:
    """Warn of a prompt file's blank prompts, which are drawn as they stand.

    Raises:
        ArtifactError: the file has a bad row.
    """
    _warn_blank(read_prompt_file(path), path)


def _warn_blank(rows: Sequence[PromptRow], path: Path) -> None:
    if blank := blank_prompts(rows):
        warnings.warn(f"{path}: {blank}", stacklevel=3)


def _name(source: Path, kind: str | None, recognized: Kind) -> str:
    if kind is not None or recognized == "i2p":
        return kind or recognized
    name = re.sub(r"[^a-z0-9_-]+", "-", source.stem.lower()).strip("-_")
    if not re.fullmatch(CONCEPT_NAME, name):
        raise ConfigError(f"name: found none in {source.name!r}; accepted: --name with {_NAME}")
    return name


def _check_options(source: str, kind: str | None, name: str | None, sha256: str | None) -> None:
    if _URL.match(source):
        raise ConfigError(f"source: found {source!r}; accepted: a local file; `dvc import-url` fetches one")
    if kind is not None and kind not in get_args(Kind):
        raise ConfigError(f"kind: found {kind!r}; accepted: {', '.join(get_args(Kind))}")
    if name is not None and not re.fullmatch(CONCEPT_NAME, name):
        raise ConfigError(f"name: found {name!r}; accepted: {_NAME}")
    if sha256 is not None and not _SHA256.fullmatch(sha256.strip().lower()):
        raise ConfigError(f"sha256: found {sha256!r}; accepted: 64 hexadecimal digits")


def _check_sha256(content: bytes, path: Path, sha256: str | None) -> None:
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.strip().lower():
        raise ArtifactError(f"{path}: found SHA-256 {found}; accepted: {sha256.strip().lower()}, as given")


def _write(content: bytes, path: Path, force: bool) -> None:
    if path.is_dir():
        raise ConfigError(f"{path}: found a folder; accepted: a new name, or a file to replace")
    if path.exists():
        there = read_bytes(path)
        if there == content:
            return
        if not force:
            found = hashlib.sha256(there).hexdigest()
            raise ConfigError(f"{path}: found other content (SHA-256 {found}); accepted: another name, or force")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _write_skipped(file: PromptFile, path: Path, source: Path) -> None:
    """Say beside the copy what it lacks; scores carry the number."""
    if not file.bad:
        path.unlink(missing_ok=True)
        return
    write_json({"rows": [reason.removeprefix(f"{source}, ") for _, reason in file.bad]}, path)
