"""Stable Diffusion 1.x and 2.x: how a checkpoint is opened, from a folder, a hub id or a single file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel

from realera.families.registry import MODEL_INDEX, family_of
from realera.runtime.devices import resolve_device, resolve_dtype
from realera.settings.errors import ModelError
from realera.store.checkpoints import check_folder, load, locate, refuse_missing

UNUSED = ("safety_checker", "feature_extractor")  # the second only serves the first


def open_pipeline(
    id: str | Path,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    config: str | Path | None = None,
    without: Sequence[str] = (),
) -> StableDiffusionPipeline:
    """Open a Stable Diffusion model, without safety checker and without progress bars.

    Args:
        id: a diffusers folder (relative to the working folder or to the project), a hub id,
            or one `.safetensors` file.
        revision: branch, tag or commit of a hub id.
        dtype: see `resolve_dtype`. Weights are converted to it, whatever they are on disk.
        device: see `resolve_device`.
        config: for a single file, the diffusers folder or hub id with its architecture;
            without it diffusers asks the hub for the one that fits the weights.
        without: components to leave out, such as `unet` and `vae`, to save memory and time.

    Raises:
        ModelError: nothing is there, it is of no family that is known, or it is corrupt.
    """
    place = locate(id)
    check_folder(place, MODEL_INDEX, "a diffusers model")
    for source, commit in ((place, revision), (config, None)):
        if source is not None:
            family_of(source, commit, fetch=True)
    target = resolve_device(device)
    options: dict[str, Any] = {
        "dtype": resolve_dtype(dtype, target),
        "requires_safety_checker": False,
        **dict.fromkeys((*UNUSED, *without)),
    }
    if Path(place).is_file():
        pipe = _load_single_file(place, config, options)
    else:
        options |= {"use_safetensors": True, "revision": revision}
        if "text_encoder" not in without:
            options["text_encoder"] = _load_text_encoder(place, options)
        pipe = load(StableDiffusionPipeline.from_pretrained, place, options)
    _check_weights(place, pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(target)


def checkpoint_folder(id: str | Path, revision: str | None = None) -> Path | None:
    """Return the folder with all files of a model that `open_pipeline` opens, or None for a single file.

    Args:
        id: as of `open_pipeline`. Of a hub id it is the snapshot in the hub's cache, completed if need be.
        revision: branch, tag or commit of a hub id.

    Raises:
        ModelError: nothing is there, or the hub's files can't be had.
    """
    place = locate(id)
    if Path(place).exists():
        return Path(place) if Path(place).is_dir() else None
    options = {"revision": revision, "use_safetensors": True, **dict.fromkeys(UNUSED)}
    return Path(load(StableDiffusionPipeline.download, place, options))


def _load_single_file(place: str, config: str | Path | None, options: dict[str, Any]) -> StableDiffusionPipeline:
    if not place.endswith(".safetensors"):
        raise ModelError(f"{place}: found a {Path(place).suffix} file; accepted: .safetensors")
    if config is not None:
        options = options | {"config": locate(config)}
    try:
        return load(StableDiffusionPipeline.from_single_file, place, options)
    except ModelError as error:
        hint = "" if config is not None else "; model.config: found null, so the hub is asked for the architecture"
        raise ModelError(f"{error}{hint}") from error


def _load_text_encoder(place: str, options: dict[str, Any]) -> CLIPTextModel:
    """Load it apart from the pipeline, which would fill weights that are missing with random ones."""
    names = {name: options[name] for name in ("dtype", "use_safetensors", "revision")}
    more = {"subfolder": "text_encoder", "output_loading_info": True}
    model, report = load(CLIPTextModel.from_pretrained, place, names | more)
    refuse_missing(f"{place}/text_encoder", report["missing_keys"])
    return model


def _check_weights(place: str, pipe: StableDiffusionPipeline) -> None:
    for part, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            refuse_missing(f"{place}/{part}", [name for name, weight in module.named_parameters() if weight.is_meta])
