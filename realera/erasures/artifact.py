"""The folder of an erasure: what it consists of, of which model it is, and by what it was made.

    erasure/
      erasure.json                                what it is, and the SHA-256 of each part
      overlay.safetensors                         weights that take the place of the model's own, under their names
      adapter/pytorch_lora_weights.safetensors    a LoRA on top of them, in diffusers' format
      report.json                                 what the method measured, for people

Either part may be missing. Free of torch until weights are read, so that a wrong name is refused at once.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from realera.settings.errors import ArtifactError, first_line
from realera.settings.yaml_file import explain
from realera.store.artifacts import (
    atomic_path,
    existing_file,
    file_sha256,
    read_json,
    read_safetensors,
    safetensors_metadata,
    write_json,
    write_safetensors,
)

if TYPE_CHECKING:
    import torch

FORMAT: Literal[1] = 1
INDEX = "erasure.json"
OVERLAY = "overlay.safetensors"
REPORT = "report.json"
ADAPTER_FOLDER = "adapter"
LORA_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers gives a LoRA in its folder."""

_KNOWN_TO_NUMPY = ("F16", "F32", "F64")
_PARTS = (OVERLAY, f"{ADAPTER_FOLDER}/{LORA_FILE}")


class BaseModelId(BaseModel):
    """The model that an erasure belongs to.

    Attributes:
        id: folder, hub id or file, as it was given.
        revision: of a hub id.
        sha256: of the original weights that the erasure replaces, see `weights_sha256`; "" where it replaces none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    revision: str | None = None
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")


class Description(BaseModel):
    """The content of erasure.json.

    Attributes:
        format: of the folder; another number is of another version of this project.
        method: which made it.
        family: of the model, a name of `realera.families`.
        base: the model.
        pairs: [(target, what it becomes)].
        parameters: of the method, by section.
        guidance: what changes at inference; None: nothing, the weights are all.
        parts: file -> SHA-256.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = FORMAT
    method: str = Field(min_length=1)
    family: str = Field(min_length=1)
    base: BaseModelId
    pairs: tuple[tuple[str, str], ...]
    parameters: dict[str, Any]
    guidance: None = None
    parts: dict[str, str] = {}

    @field_validator("parts")
    @classmethod
    def _are_known(cls, parts: dict[str, str]) -> dict[str, str]:
        if strange := sorted(set(parts) - set(_PARTS)):
            raise ValueError(f"of {', '.join(_PARTS)}, found {strange[0]!r}")
        return parts


@dataclass(frozen=True)
class Erasure:
    """What a method makes of a model; see `realera.erasures.apply` for what is done with it.

    Attributes:
        about: what it is.
        overlay: {name in the image model's state dict: weight}, float32 on the CPU; empty: no weight is replaced.
        adapter: tensors of a LoRA on top of the overlay, as diffusers writes them; empty: none.
        adapter_metadata: of the LoRA's file, with its scale.
        report: what the method measured, for people.
        source: named in errors: its folder, where it was read from one.
    """

    about: Description
    overlay: Mapping[str, "torch.Tensor"]
    adapter: Mapping[str, "torch.Tensor"] = field(default_factory=dict)
    adapter_metadata: Mapping[str, str] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    source: str = "erasure"

    def apply(self, pipe: Any, merge: bool = True) -> None:
        """Make a pipeline of the base model draw as the erased one; see `realera.erasures.apply.apply_erasure`."""
        from realera.erasures.apply import apply_erasure

        apply_erasure(pipe, self, merge)

    def remove(self, pipe: Any) -> None:
        """Give a pipeline its own weights again; see `realera.erasures.apply.remove_erasure`."""
        from realera.erasures.apply import remove_erasure

        remove_erasure(pipe)

    def save(self, folder: str | Path) -> None:
        """Write the folder, whole or not at all; equal erasures give equal bytes.

        Raises:
            ArtifactError: it holds something else than an erasure, or cannot be written.
        """
        folder = Path(folder)
        check_is_free(folder)
        with atomic_path(folder) as target:
            target.mkdir()
            if self.overlay:
                _write(self.overlay, target / OVERLAY, {"format": "pt"})
            if self.adapter:
                _write(self.adapter, target / ADAPTER_FOLDER / LORA_FILE, self.adapter_metadata)
            if self.report:
                write_json(self.report, target / REPORT)
            write_index(self.about, target)


def write_index(about: Description, folder: Path) -> None:
    """Write erasure.json beside the parts that are in a folder, with their hashes."""
    parts = {name: file_sha256(folder / name) for name in _PARTS if (folder / name).is_file()}
    write_json(about.model_copy(update={"parts": parts}).model_dump(mode="json"), folder / INDEX)


def gather(about: Description, overlay: Path | None, adapter: Path | None, folder: Path) -> None:
    """Write an erasure's folder from files that are there already; they keep their bytes.

    Args:
        about: what it is.
        overlay: a file of weights, or None.
        adapter: a LoRA's folder, or None.
        folder: an earlier erasure there is replaced.

    Raises:
        ArtifactError: a file is missing or corrupt or holds numbers that are not finite, or the folder holds something
            else than an erasure or cannot be written.
    """
    check_is_free(folder)
    for path in (overlay, adapter and adapter / LORA_FILE):
        if path is not None:
            _check_weights(existing_file(path))
    with atomic_path(folder) as target:
        target.mkdir()
        if overlay is not None:
            (target / OVERLAY).write_bytes(overlay.read_bytes())
        if adapter is not None:
            (target / ADAPTER_FOLDER).mkdir()
            (target / ADAPTER_FOLDER / LORA_FILE).write_bytes((adapter / LORA_FILE).read_bytes())
        write_index(about, target)


def check_is_free(folder: Path) -> None:
    """Refuse a folder whose content is no erasure: writing one there would lose it.

    Raises:
        ArtifactError: a file is there, or a folder with something else.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / INDEX).is_file()):
        raise ArtifactError(f"{folder}: found something that is no erasure; accepted: a new or empty folder")


def describe(folder: str | Path) -> Description:
    """Read erasure.json; no weights.

    Raises:
        ArtifactError: it is missing, or no such description.
    """
    path = Path(folder) / INDEX
    try:  # as strict JSON: lists may become tuples, but no text becomes a number
        return Description.model_validate_json(json.dumps(read_json(path)), strict=True)
    except ValidationError as error:
        raise ArtifactError(f"{path}: {explain(error, Description)[0]}") from error


def read_erasure(folder: str | Path) -> Erasure:
    """Read an erasure's folder.

    Raises:
        ArtifactError: a part is missing or not the one that erasure.json names, or a file is corrupt.
    """
    folder = Path(folder)
    about = describe(folder)
    for name, expected in about.parts.items():
        if file_sha256(existing_file(folder / name)) != expected:
            raise ArtifactError(f"{folder / name}: found other bytes than {INDEX} names; it belongs to another erasure")
    overlay = read_safetensors(folder / OVERLAY) if OVERLAY in about.parts else {}
    adapter = folder / ADAPTER_FOLDER / LORA_FILE
    if _PARTS[1] not in about.parts:
        return Erasure(about, overlay, source=str(folder))
    return Erasure(about, overlay, read_safetensors(adapter), safetensors_metadata(adapter), source=str(folder))


def weights_sha256(weights: Mapping[str, "torch.Tensor"]) -> str:
    """Return 64 hex digits of weights' names and values in float32; the order of names is no matter."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + b"\0")
        digest.update(weights[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _write(tensors: Mapping[str, "torch.Tensor"], path: Path, metadata: Mapping[str, str]) -> None:
    path.parent.mkdir(exist_ok=True)
    write_safetensors(tensors, path, metadata or None)


def _check_weights(path: Path) -> None:
    """Refuse a file that is cut off or holds numbers that are not finite, without torch, which has no part in copying.

    Raises:
        ArtifactError: see above.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118  no mapping
                if file.get_slice(name).get_dtype() in _KNOWN_TO_NUMPY and not np.isfinite(file.get_tensor(name)).all():
                    raise ArtifactError(f"{path}: {name}: found values that are not finite")
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not a readable safetensors file: {first_line(error)}") from error
