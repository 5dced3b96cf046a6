"""Find a checkpoint and load a part of it; whatever a library raises becomes one line that names the place.

Weights are read from safetensors only: a pickle can run code.
"""

import json
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from realera.settings import project
from realera.settings.errors import ModelError, printable

_LENGTH_BYTES = 8
_MOST_CHARACTERS = 600
"""Of a library's message, whose second line is often what to do."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

HALF = "fp16"
"""The variant of weights in half precision, as diffusers and transformers name their files."""

Loaded = TypeVar("Loaded")


def locate(id: str | Path) -> str:
    """Return the path of a folder or file that exists, else the id if the hub may have it."""
    text = str(id)
    if (found := project.find(text)) is not None:
        return str(found)
    if _HUB_ID.fullmatch(text) and not text.endswith(".safetensors"):
        return text
    raise ModelError(f"{text}: no such model; accepted: a folder, a hub id (owner/name), a .safetensors file")


def check_folder(place: str, needed: str, kind: str) -> None:
    """Refuse a local folder without its index file, with what it holds instead."""
    folder = Path(place)
    if not folder.is_dir() or (folder / needed).is_file():
        return
    names = sorted(os.listdir(folder))
    found = ", ".join(names[:5]) or "nothing"
    raise ModelError(f"{place}: not {kind}: no {needed} in the folder, which holds {found}")


def is_only_half(folder: Path) -> bool:
    """Say whether a component's weights are there in half precision alone: *.fp16.safetensors."""
    names = [path.name for path in folder.glob("*.safetensors")]
    return bool(names) and all(f".{HALF}" in name for name in names)


def refuse_missing(place: str, names: Collection[str]) -> None:
    """Refuse a checkpoint that lacks weights, which libraries fill with random numbers.

    Raises:
        ModelError: there are names.
    """
    if names:
        raise ModelError(f"{place}: weights are missing, among them {', '.join(sorted(names)[:3])}")


def safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return what a safetensors file says of its tensors, by name, and at which byte they begin; none is read.

    Raises:
        ValueError: it is no such file, or cut off in its header.
        OSError: it cannot be read.
        RecursionError: it is nested to no end.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length >= path.stat().st_size:
            raise ValueError("the header is longer than the file")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return header, _LENGTH_BYTES + length


def load(loader: Callable[..., Loaded], place: str, options: dict[str, Any]) -> Loaded:
    """Call a library's loader; whatever it raises becomes one line that names the place."""
    try:
        return loader(place, **options)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        cut = reason if len(reason) <= _MOST_CHARACTERS else f"{reason[:_MOST_CHARACTERS]}..."
        raise ModelError(f"{place}: cannot be loaded: {printable(cut)}") from error
