"""Resumable work outside the workspace.

DVC removes a stage's outputs before it runs the stage again, and experiments run in folders
that are thrown away; half-finished work therefore lives in a folder of the user, keyed by
the content that it was made from. The same inputs find it again, other inputs never do.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from realera.settings.errors import ArtifactError
from realera.store.artifacts import file_sha256, lock_folder

_KEY_DIGITS = 16


def scratch_root() -> Path:
    """Return `$REALERA_SCRATCH`, else `realera` in the user's cache folder."""
    if given := os.environ.get("REALERA_SCRATCH"):
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "realera"


def make_scratch_root() -> Path:
    """Return `scratch_root`, made if need be.

    Raises:
        ArtifactError: it cannot be made or written to; the message says what to set.
    """
    root = scratch_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"found {error.strerror or error}"
        accepted = "a folder that can be written to, which REALERA_SCRATCH names"
        raise ArtifactError(f"scratch folder {root}: {problem}; accepted: {accepted}") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise ArtifactError(f"scratch folder {root}: not writable; accepted: another one, which REALERA_SCRATCH names")
    return root


def fingerprint(params: BaseModel | Mapping[str, Any] | Any, files: Iterable[str | Path]) -> str:
    """Return 64 hex digits that change with the parameters or with any file's content.

    A folder counts with the relative path and the content of every file in it; where a file
    or folder lies does not count. The order of `files` does.

    Raises:
        TypeError: a parameter has no JSON form.
        FileNotFoundError: a path does not exist.
    """
    plain = params.model_dump(mode="json") if isinstance(params, BaseModel) else params
    parts = {"params": plain, "files": [_content(Path(path)) for path in files]}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@contextmanager
def scratch(stage: str, key: str) -> Iterator[Path]:
    """Yield the folder `<root>/<stage>-<key[:16]>`, with what an earlier try left in it.

    The folder is removed when the block succeeds and kept when it raises or is killed. A
    second process with the same stage and key waits until the first has ended.

    Raises:
        ArtifactError: nothing can be written there.
    """
    folder = make_scratch_root() / f"{stage}-{key[:_KEY_DIGITS]}"
    for left in folder.parent.glob(".tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    descriptor = lock_folder(folder)
    try:
        yield folder
        _remove_at_once(folder)
    finally:
        os.close(descriptor)


def _remove_at_once(folder: Path) -> None:
    """Remove a folder so that one who is killed meanwhile leaves all of its work or none, not a part."""
    left = folder.with_name(f".tmp-{uuid.uuid4().hex}")
    folder.rename(left)
    shutil.rmtree(left, ignore_errors=True)  # another process may remove it too


def _content(path: Path) -> str | dict[str, str]:
    if not path.is_dir():
        return file_sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file_sha256(file) for file in files}
