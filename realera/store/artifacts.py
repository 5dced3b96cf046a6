"""Read and write files: whole or not at all, and the same bytes for the same content.

Equal bytes let DVC see that nothing changed, so that nothing downstream runs again.
"""

import fcntl
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from realera.settings.errors import ArtifactError, first_line

if TYPE_CHECKING:
    import torch

_MADE = "artifacts"
"""The folder of what the stages make."""

ROWS_PER_GROUP = 1024
"""Fixed, because the row groups decide the bytes of a Parquet file."""

_HEADER_LENGTH_BYTES = 8
_TEMPORARY_DIGITS = 8
_CHUNK_BYTES = 1 << 20


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path of the same name; move it to `path` when the block succeeds.

    The block makes a file or a folder at the yielded path, which lies in a folder of its own
    beside `path`. What stood at `path` before is replaced, and is untouched if the block fails.
    What a killed process has left of an earlier try is removed.

    Raises:
        ArtifactError: the block wrote nothing, or could not write, for instance on a full disk.
    """
    path = Path(path)
    folder = path.with_name(f".tmp-{uuid.uuid4().hex[:_TEMPORARY_DIGITS]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path)
        with _locked(folder):
            yield folder / path.name
            _replace(folder / path.name, path)
    except (OSError, ArtifactError) as error:
        raise _as_artifact_error(error, folder, path) from error


def write_parquet(table: pa.Table, path: str | Path) -> None:
    """Write a table; equal tables give equal bytes."""
    write_parquet_blocks([table], path)


def write_parquet_blocks(blocks: Iterable[pa.Table], path: str | Path) -> None:
    """Write tables of one schema, at least one, as one table; its bytes don't depend on where it was cut."""
    with atomic_path(path) as temporary, ExitStack() as stack:
        writer, rest = None, None
        for block in blocks:
            if writer is None:
                writer = stack.enter_context(_parquet_writer(temporary, block.schema))
            rest = block if rest is None else pa.concat_tables([rest, block])
            whole = rest.num_rows // ROWS_PER_GROUP * ROWS_PER_GROUP
            writer.write_table(rest.slice(0, whole), row_group_size=ROWS_PER_GROUP)
            rest = rest.slice(whole)
        if writer is not None and rest is not None:
            writer.write_table(rest, row_group_size=ROWS_PER_GROUP)


def _parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a writer that looks for repeated values in text only: numbers and pictures have none worth the search."""
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=texts)


def read_parquet(path: str | Path, columns: Sequence[str] | pa.Schema | None = None) -> pa.Table:
    """Read a table, or only `columns` of it; a schema also asks for their types, and no empty cell.

    Raises:
        ArtifactError: the file is missing, is no Parquet file, lacks a column, or has one of
            another type.
    """
    path = existing_file(path)
    names = columns.names if isinstance(columns, pa.Schema) else columns
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, names or (), file.schema_arrow.names)
            table = file.read(columns=None if names is None else list(names))
            table.validate(full=True)  # text that is no UTF-8 is found only so
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(_unreadable(path, "a readable Parquet file", error)) from error
    if isinstance(columns, pa.Schema):
        _check_types(path, table, columns)
        # Parquet calls a list's items "element"; under the schema's own name the table's bytes are the same again.
        schema = columns.with_metadata(found) if (found := table.schema.metadata) else columns.remove_metadata()
        return table.select(columns.names).cast(schema)
    return table


def write_json(value: Any, path: str | Path) -> None:
    """Write JSON with sorted keys, two spaces of indentation and a final newline.

    Raises:
        ValueError: a number is not finite (JSON has no word for it).
        TypeError: a value has no JSON form.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: the file is missing or is not JSON.
    """
    path = existing_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair reads, and can't be written
        return value
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ArtifactError(_unreadable(path, "readable as JSON", error)) from error


def read_parquet_blocks(path: str | Path, schema: pa.Schema, rows_at_once: int) -> Iterator[pa.Table]:
    """Read a table a few rows at a time.

    Args:
        path: of a table.
        schema: columns that it must have; all columns are read.
        rows_at_once: rows of a block; the last one may have fewer.

    Raises:
        ArtifactError: as `read_parquet`.
    """
    path = existing_file(path)
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:  # else it keeps what was read until the end
            _check_columns(path, schema.names, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=rows_at_once):
                batch.validate(full=True)
                block = pa.Table.from_batches([batch])
                _check_types(path, block, schema)
                yield block
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(_unreadable(path, "a readable Parquet file", error)) from error


def take_rows(path: str | Path, field: pa.Field, index: Sequence[int]) -> list[Any]:
    """Return some rows of one column, reading a row group at a time.

    Args:
        path: of a table that `read_parquet` has accepted.
        field: name and type of the column.
        index: rows, ascending.

    Raises:
        ArtifactError: as `read_parquet`.
    """
    path, wanted, found, start = existing_file(path), np.asarray(index, dtype=np.int64), [], 0
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, [field.name], file.schema_arrow.names)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=[field.name])
                table.validate(full=True)
                inside = wanted[(wanted >= start) & (wanted < start + table.num_rows)] - start
                _check_types(path, table, pa.schema([field]))
                found += table[field.name].take(pa.array(inside)).to_pylist()
                start += table.num_rows
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(_unreadable(path, "a readable Parquet file", error)) from error
    return found


def write_safetensors(
    tensors: Mapping[str, "torch.Tensor"],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors and text metadata; equal content gives equal bytes in every process.

    The library orders its metadata differently from process to process, so its header is
    written anew with sorted keys. `safetensors.safe_open` reads the file as any other.
    """
    from safetensors.torch import save

    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content = _with_sorted_header(save(contiguous, metadata=dict(metadata) if metadata else None))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.writelines(content)


def read_safetensors(path: str | Path, keys: Sequence[str] = ()) -> dict[str, "torch.Tensor"]:
    """Read all tensors of a file, on the CPU.

    Raises:
        ArtifactError: the file is missing or corrupt, or lacks one of `keys`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = existing_file(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:  # KeyError: a dtype that torch lacks
        raise ArtifactError(_unreadable(path, "a readable safetensors file", error)) from error
    if missing := [key for key in keys if key not in tensors]:
        found = ", ".join(list(tensors)[:3]) or "nothing"
        raise ArtifactError(f"{path}: no tensor {missing[0]!r}; it has {found}")
    return tensors


def safetensors_metadata(path: str | Path) -> dict[str, str]:
    """Return the text beside a file's tensors.

    Raises:
        ArtifactError: the file is missing or corrupt.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(existing_file(path), framework="np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(_unreadable(path, "a readable safetensors file", error)) from error


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _with_sorted_header(content: bytes) -> tuple[bytes, bytes, memoryview]:
    """Split a safetensors file into length, sorted header and the unchanged tensor bytes.

    Tensor offsets count from the end of the header, so they stay right; the header is padded
    with spaces to a multiple of 8 bytes, which keeps the tensors aligned.
    """
    start = _HEADER_LENGTH_BYTES + int.from_bytes(content[:_HEADER_LENGTH_BYTES], "little")
    header = json.loads(content[_HEADER_LENGTH_BYTES:start])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _HEADER_LENGTH_BYTES)
    length = len(text).to_bytes(_HEADER_LENGTH_BYTES, "little")
    return length, text, memoryview(content)[start:]


def _replace(source: Path, target: Path) -> None:
    """Move `source` over `target`, which may be a file or a folder that is not empty."""
    if not source.exists():
        raise ArtifactError(f"{target}: nothing was written")
    if not (source.is_dir() or target.is_dir()):
        os.replace(source, target)
        return
    if target.exists():
        os.replace(target, source.with_name(f"{target.name}.old"))  # removed with the temporary folder
    os.replace(source, target)


def lock_folder(folder: Path) -> int:
    """Make a folder if needed and lock it; return the descriptor whose closing unlocks it, as the process's end does.

    On a file system without locks nobody waits.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # removed by another process: try again
            descriptor = os.open(folder, os.O_RDONLY)
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still_there(folder, descriptor):
                return descriptor
            os.close(descriptor)


def _is_still_there(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make and lock a folder, which is removed after the block; the lock tells others that its writer is alive."""
    descriptor = lock_folder(folder)
    try:
        yield
    finally:
        _remove(folder)
        os.close(descriptor)


def _remove_left_behind(path: Path) -> None:
    """Remove what killed processes have left beside `path` when they wrote it; nothing that is being written."""
    for left in path.parent.glob(f".tmp-{'?' * _TEMPORARY_DIGITS}-{glob.escape(path.name)}"):
        with suppress(OSError):  # in use, or removed by another process
            descriptor = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(left)
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def existing_file(path: str | Path) -> Path:
    """Return the path of a file.

    Raises:
        ArtifactError: nothing or a folder is there.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise ArtifactError(f"{path}: a file is needed here, found {found}")
    return path


def _check_columns(path: Path, wanted: Sequence[str], found: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ArtifactError(f"{path}: no column {missing}; it has {list(found)}")


def _unreadable(path: str | Path, kind: str, error: Exception) -> str:
    """Return what to say of a corrupt file; of one that DVC keeps, how to be rid of the copy in its cache."""
    said = f"{path}: not {kind}: {first_line(error)}"
    if not Path(path).is_absolute() and Path(path).parts[:1] == (_MADE,) and Path(".dvc").is_dir():
        said += "; if `dvc repro -f` brings it back, DVC's cache has it so: docs/experiments.md, Traps"
    return said


def _check_types(path: Path, table: pa.Table, wanted: pa.Schema) -> None:
    for field in wanted:
        column = table[field.name]
        if column.type != field.type:
            raise ArtifactError(f"{path}: column {field.name}: found {column.type}; accepted: {field.type}")
        if column.null_count:
            raise ArtifactError(f"{path}: column {field.name}: found {column.null_count} empty cells")


def _as_artifact_error(error: OSError | ArtifactError, folder: Path, path: Path) -> ArtifactError:
    """Name the file that the user knows, not the one in the folder that is gone already."""
    if isinstance(error, ArtifactError):
        return ArtifactError(str(error).replace(str(folder / path.name), str(path)))
    reason = os.strerror(error.errno) if error.errno else first_line(error)
    other = error.filename and str(folder) not in str(error.filename)
    return ArtifactError(f"{path}: cannot be written: {f'{error.filename}: ' if other else ''}{reason}")
