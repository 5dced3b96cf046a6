"""Look over the machine: packages, devices, models, scratch folder, DVC."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from realera import __version__
from realera.families.registry import MODEL_INDEX, family_of
from realera.settings import project
from realera.settings.config import Params, load_params
from realera.settings.errors import ModelError, RealEraError, first_line
from realera.store.checkpoints import load, safetensors_header
from realera.store.scratch import scratch_root

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

EMBEDDED = ("data/models/tiny-sd", "data/models/tiny-clip", "data/models/tiny-style")
_LEAST_FREE_BYTES = 1 << 30
_JUDGE_INDEX = "config.json"
_DVC_FILES = ("dvc.yaml", ".dvc")
PARAMS = "params.yaml"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        found: what is there.
        is_bad: something needed is missing.
    """

    name: str
    found: str
    is_bad: bool = False

    def line(self) -> str:
        """Return the finding as text; a bad one is marked."""
        return f"{'MISSING' if self.is_bad else 'ok':<8}{self.name:<24}{self.found}"


def examine(params: Path) -> list[Finding]:
    """Return what is found; nothing is downloaded, no weights are read.

    Args:
        params: the parameter file that names the models.
    """
    return [
        Finding("realera", f"{__version__}, Python {platform.python_version()}, {platform.system()}"),
        *_packages(),
        *_devices(),
        *(_models(params) if _is_project(params) else ()),
        _scratch(),
        *_dvc(),
    ]


def _is_project(params: Path) -> bool:
    """Say whether there is something of a project: outside of one nobody needs its parameters and embedded models."""
    return any(project.find(name) for name in (*_DVC_FILES, params)) or params.name != PARAMS


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what the package asks for."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(text) for text in metadata.requires("realera") or ()]
    except metadata.PackageNotFoundError:
        yield Finding("realera's packages", "realera is not installed: make setup", is_bad=True)
        return
    for requirement in asked:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement.name, str(requirement.specifier), requirement.specifier.contains)


def _package(name: str, wanted: str, is_accepted: Callable[..., bool]) -> Finding:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "not installed: make setup", is_bad=True)
    if not is_accepted(version, prereleases=True):
        return Finding(name, f"{version}; needed: {wanted}", is_bad=True)
    return Finding(name, version)


def _devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("device cpu", f"{cores} cores{_memory()}")
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", f"does not import: {first_line(error)}", is_bad=True)
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding(f"device cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        yield Finding("device mps", "Apple GPU")


def _memory() -> str:
    try:
        return f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    except (AttributeError, ValueError, OSError):
        return ""


def _models(path: Path) -> Iterator[Finding]:
    for id in EMBEDDED:
        yield _model(f"embedded {Path(id).name}", id, None, _index_of(id))
    try:
        params = load_params(path)
    except RealEraError as error:
        yield Finding("params", first_line(error), is_bad=True)
        return
    yield Finding("params", str(path))
    yield _model("model.id", params.model.id, params.model.revision, MODEL_INDEX)
    yield _model("judge.id", params.judge.id, params.judge.revision, _JUDGE_INDEX)
    yield from _concepts(params)


def _concepts(params: Params) -> Iterator[Finding]:
    from realera.settings.presets import load_preset
    from realera.text.checks import problems

    tokenizer = _tokenizer(params.model.id)
    for name in params.concepts:
        try:
            preset = load_preset(name)
        except RealEraError as error:
            yield Finding(f"concept {name}", first_line(error), is_bad=True)
            continue
        found = list(problems(preset, params, tokenizer))
        yield from (Finding(f"concept {name}", problem, is_bad=True) for problem in found)
        if not found:
            yield Finding(f"concept {name}", ", ".join(f"{target} -> {anchor}" for target, anchor in preset.pairs()))


def _tokenizer(model: str) -> "CLIPTokenizer | None":
    """Return the tokenizer of a model that is a folder; of others that waits until they are opened."""
    place = project.find(Path(model) / "tokenizer")
    if place is None:
        return None
    from transformers import CLIPTokenizer

    tokenizer: CLIPTokenizer = load(CLIPTokenizer.from_pretrained, str(place), {})
    return tokenizer


def _index_of(id: str) -> str:
    return MODEL_INDEX if id.endswith("sd") else _JUDGE_INDEX


def _model(name: str, id: str, revision: str | None, index: str) -> Finding:
    place = project.find(id)
    if place is None:
        return _hub_model(name, id, revision, index)
    files = [place] if place.is_file() else sorted(place.rglob("*.safetensors"))
    if place.is_dir() and not (place / index).is_file():
        return Finding(name, f"{id}: no {index} in the folder", is_bad=True)
    if index == MODEL_INDEX and (problem := _of_no_family(id, revision)):
        return Finding(name, problem, is_bad=True)
    broken = [file for file in files if not _is_whole(file)]
    if broken or not files:
        what = f"{broken[0].name} is corrupt or cut off" if broken else "no .safetensors file in the folder"
        return Finding(name, f"{id}: {what}", is_bad=True)
    size = sum(file.stat().st_size for file in files)
    return Finding(name, f"{id}: {size / 1e6:,.0f} MB of weights")


def _hub_model(name: str, id: str, revision: str | None, index: str) -> Finding:
    """Say whether a hub id's files are in the local cache; nothing is asked of the hub."""
    from huggingface_hub import constants, try_to_load_from_cache

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", id) or id.endswith(".safetensors"):
        return Finding(name, f"{id}: no such folder or file, and no hub id", is_bad=True)
    if isinstance(try_to_load_from_cache(id, index, revision=revision), str):
        if index == MODEL_INDEX and (problem := _of_no_family(id, revision)):
            return Finding(name, problem, is_bad=True)
        return Finding(name, f"{id}: hub id, in the local cache")
    if constants.HF_HUB_OFFLINE:
        return Finding(name, f"{id}: hub id, not in the local cache, and HF_HUB_OFFLINE is set", is_bad=True)
    return Finding(name, f"{id}: not here; taken from the hub at first use, if it has that name")


def _of_no_family(id: str, revision: str | None) -> str:
    """Return why a model is of no family that is known; empty if it is of one, or if that cannot be told here."""
    try:
        family_of(id, revision)
    except ModelError as error:
        return first_line(error)
    return ""


def _is_whole(path: Path) -> bool:
    """Say whether a safetensors file is as long as its header claims; reads the header only."""
    try:
        header, start = safetensors_header(path)
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return path.stat().st_size == start + end


def _scratch() -> Finding:
    """Find the nearest folder that exists: the scratch folder itself is made when it is needed."""
    root = scratch_root().absolute()
    present = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(present).free
    if not (present.is_dir() and os.access(present, os.W_OK)):
        return Finding("scratch", f"{root}: not writable; set REALERA_SCRATCH", is_bad=True)
    text = f"{root}, {free / 1e9:.1f} GB free"
    return Finding("scratch", text, is_bad=free < _LEAST_FREE_BYTES)


def _dvc() -> Iterator[Finding]:
    """The stages need the `dvc` program, in a folder that git and DVC know; outside of a project nobody needs it."""
    places = {name: project.find(name) for name in _DVC_FILES}
    if not any(places.values()):
        yield Finding("project", "none here: `realera erase` works, the pipeline needs a clone")
        return
    program = shutil.which("dvc") or shutil.which("dvc", path=str(Path(sys.executable).parent))
    yield Finding("dvc program", program or "not on the PATH: activate .venv", is_bad=program is None)
    for name, found in places.items():
        yield Finding(name, "found" if found else "missing: run in the project's folder", is_bad=found is None)
