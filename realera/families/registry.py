"""The model families that RealEra erases from, and which of them a model is of.

Told from small files before any weight is read: model_index.json, the UNet's config.json, a single file's header.
Free of torch and diffusers, so that doctor can ask.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realera.settings.errors import ModelError, first_line, printable
from realera.store.checkpoints import load, locate, safetensors_header

MODEL_INDEX = "model_index.json"
_UNET_CONFIG = "unet/config.json"
_UNET_ENTRY = "model.diffusion_model.input_blocks.0.0.weight"
_SINGLE_FILES = {
    "conditioner.embedders.1.": "StableDiffusionXLPipeline",
    "conditioner.embedders.0.model.": "StableDiffusionXLImg2ImgPipeline",  # the refiner, which has no first encoder
    "joint_blocks.": "StableDiffusion3Pipeline",
    "double_blocks.0.img_attn.norm.": "FluxPipeline",
}
"""Names that only single files of these begin with, and what they hold; the two last also below the UNet's own name."""


@dataclass(frozen=True)
class Family:
    """Models that are opened in one way.

    Attributes:
        key: what methods and erasure.json know it by.
        name: what a reader knows it by.
        pipelines: the classes of diffusers that save the same parts; the first one opens them all.
        in_channels: what the UNet reads; one for inpainting reads a mask and a picture too, which nobody here gives it.
    """

    key: str
    name: str
    pipelines: tuple[str, ...]
    in_channels: int


STABLE_DIFFUSION = Family(
    key="stable_diffusion",
    name="Stable Diffusion 1.x, 2.x",
    pipelines=(
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionPipelineSafe",
    ),
    in_channels=4,
)
FAMILIES = (STABLE_DIFFUSION,)


def family_of(id: str | Path, revision: str | None = None, fetch: bool = False) -> Family | None:
    """Return the family of a model, or None where its small files are not here or say nothing.

    Args:
        id: a diffusers folder, a hub id or a `.safetensors` file, as `model.id`.
        revision: branch, tag or commit of a hub id.
        fetch: let the hub give the small files that its cache lacks; else nothing is asked.

    Raises:
        ModelError: it is of another family, or nothing is there.
    """
    place = locate(id)
    if Path(place).is_file():
        return _of_single_file(place)
    if (index := _find(place, MODEL_INDEX, revision, fetch)) is None:
        return None
    family = family_of_class(place, _read(place, index).get("_class_name"))
    if (config := _find(place, _UNET_CONFIG, revision, fetch)) is not None:
        _check_channels(place, family, _read(place, config).get("in_channels"))
    return family


def component_class(id: str | Path, component: str, revision: str | None = None) -> str | None:
    """Return the class by which model_index.json names a component; None where that file is not here, or names none.

    Raises:
        ModelError: the file is corrupt.
    """
    place = locate(id)
    index = None if Path(place).is_file() else _find(place, MODEL_INDEX, revision, fetch=False)
    named = _read(place, index).get(component) if index is not None else None
    return named[1] if isinstance(named, list) and len(named) == 2 and isinstance(named[1], str) else None


def _find(place: str, name: str, revision: str | None, fetch: bool) -> Path | None:
    """Return a small file of a folder or a hub id."""
    if (folder := Path(place)).is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache  # not needed for a folder

    if fetch:
        return Path(load(hf_hub_download, place, {"filename": name, "revision": revision}))
    found = try_to_load_from_cache(place, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _read(place: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{place}: cannot be loaded: {path.name}: {printable(first_line(error))}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{place}: cannot be loaded: {path.name}: found {_shown(found)}; accepted: an object")
    return found


def family_of_class(place: str, name: object) -> Family:
    """Return the family of a pipeline's class.

    Args:
        place: the model's, for the error.
        name: `_class_name` of its model_index.json.

    Raises:
        ModelError: it is of another family, or no class.
    """
    for family in FAMILIES:
        if name in family.pipelines:
            return family
    found = "no _class_name in model_index.json" if name is None else _shown(name)
    raise ModelError(f"{place}: found {found}; accepted: {_accepted()}")


def _of_single_file(place: str) -> Family | None:
    try:
        header, _ = safetensors_header(Path(place))
    except (OSError, ValueError, RecursionError):
        return None  # no safetensors file, or a corrupt one: the loader says which
    names = [name.removeprefix("model.diffusion_model.") for name in header]
    for start, pipeline in _SINGLE_FILES.items():
        if any(name.startswith(start) for name in names):
            raise ModelError(f"{place}: found {pipeline}; accepted: {_accepted()}")
    entry = header.get(_UNET_ENTRY)
    if not isinstance(entry, dict) or not isinstance(shape := entry.get("shape"), list) or len(shape) < 2:
        found = _shown(min(header.keys() - {"__metadata__"}, default="nothing"))
        raise ModelError(f"{place}: found no {_UNET_ENTRY}, but {found}; accepted: {_accepted()}")
    _check_channels(place, STABLE_DIFFUSION, shape[1])
    return STABLE_DIFFUSION


def _check_channels(place: str, family: Family, found: object) -> None:
    if found != family.in_channels:
        kind = " (for inpainting)" if found == 9 else ""
        raise ModelError(f"{place}: unet: in_channels: found {_shown(found)}{kind}; accepted: {family.in_channels}")


def _accepted() -> str:
    return ", ".join(f"{family.pipelines[0]} ({family.name})" for family in FAMILIES)


def _shown(value: object) -> str:
    """Return a value from a file as it stands there, on one line, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value)
    return printable(text if len(text) <= 80 else f"{text[:77]}...")
