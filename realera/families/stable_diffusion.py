"""Stable Diffusion 1.x and 2.x: how a checkpoint is opened, from a folder, a hub id or a single file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline
from transformers import CLIPTextModel

from realera.families.onnx import without_onnxruntime
from realera.families.registry import MODEL_INDEX, component_class, family_of
from realera.families.schedulers import (
    DEFAULT_SCHEDULER,
    MODEL_SCHEDULER,
    SCHEDULERS,
    check_scheduler,
    from_config,
    missing_packages,
    use_scheduler,
)
from realera.runtime.devices import resolve_device, resolve_dtype
from realera.settings.errors import ModelError
from realera.store.checkpoints import HALF, Loaded, check_folder, is_only_half, load, locate, refuse_missing

PARTS = ("unet", "vae", "text_encoder")
"""Components with weights."""

UNUSED = ("safety_checker", "feature_extractor")  # the second only serves the first


def open_pipeline(
    id: str | Path,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    config: str | Path | None = None,
    without: Sequence[str] = (),
    scheduler: str | None = MODEL_SCHEDULER,
) -> StableDiffusionPipeline:
    """Open a Stable Diffusion model, without safety checker and without progress bars.

    A component that has its weights only in half precision (`*.fp16.safetensors`) is opened from these.

    Args:
        id: a diffusers folder (relative to the working folder or to the project), a hub id,
            or one `.safetensors` file.
        revision: branch, tag or commit of a hub id.
        dtype: see `resolve_dtype`. Weights are converted to it, whatever they are on disk.
        device: see `resolve_device`.
        config: for a single file, the diffusers folder or hub id with its architecture;
            without it diffusers asks the hub for the one that fits the weights.
        without: components to leave out, such as `unet` and `vae`, to save memory and time.
        scheduler: see `use_scheduler`; the model's own is not needed where another one takes its place. None: the
            model's own if it can be had here, else another with its noise schedule.

    Raises:
        ModelError: nothing is there, it is of no family that is known, or it is corrupt.
    """
    check_scheduler(scheduler or MODEL_SCHEDULER)
    place = locate(id)
    check_folder(place, MODEL_INDEX, "a diffusers model")
    for source, commit in ((place, revision), (config, None)):
        if source is not None:
            family_of(source, commit, fetch=True)
    with without_onnxruntime():
        return _open(place, revision, dtype, resolve_device(device), config, without, scheduler)


def _open(
    place: str,
    revision: str | None,
    dtype: str,
    target: torch.device,
    config: str | Path | None,
    without: Sequence[str],
    scheduler: str | None,
) -> StableDiffusionPipeline:
    options: dict[str, Any] = {
        "dtype": resolve_dtype(dtype, target),
        "requires_safety_checker": False,
        **dict.fromkeys((*UNUSED, *without)),
    }
    if Path(place).is_file():
        pipe = _load_single_file(place, config, options)
    else:
        options |= {"use_safetensors": True, "revision": revision}
        # Nothing is drawn or trained without a UNet. And diffusers takes no other scheduler in place of one that it
        # has only a stand-in for (findings/scheduler_stand_in.sh), so that it is put in afterwards.
        other = _stand_in(place, revision, None if "unet" in without else scheduler)
        options |= {"scheduler": None} if other else {}
        if "text_encoder" not in without:
            options["text_encoder"] = _load_text_encoder(place, options)
        parts = [part for part in PARTS if part not in without]
        pipe = _load(StableDiffusionPipeline.from_pretrained, place, options, parts)
        if other:
            pipe.register_modules(scheduler=other)
    _check_weights(place, pipe)
    use_scheduler(pipe, scheduler or MODEL_SCHEDULER)
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
    with without_onnxruntime():
        return Path(load(StableDiffusionPipeline.download, place, options))


def _stand_in(place: str, revision: str | None, name: str | None) -> SchedulerMixin | None:
    """Return what takes the place of the model's own scheduler where that cannot be had here; None where it can.

    Raises:
        ModelError: it cannot be had and is asked for.
    """
    own = component_class(place, "scheduler", revision)
    missing = missing_packages(own)
    if not missing:
        return None
    if name == MODEL_SCHEDULER:
        packages, others = ", ".join(missing), ", ".join(SCHEDULERS)
        accepted = f"pip install {packages}, or another in its place: generate.scheduler, --scheduler: {others}"
        raise ModelError(f"{place}: scheduler: found {own}, which needs {packages}; accepted: {accepted}")
    other, where = name or DEFAULT_SCHEDULER, {"subfolder": "scheduler", "revision": revision}
    return from_config(other, load(SCHEDULERS[other].load_config, place, where))


def _load(loader: Callable[..., Loaded], place: str, options: dict[str, Any], parts: Sequence[str]) -> Loaded:
    """Load from a folder or a hub id: plain weights, or those in half precision where a part has no others.

    What a hub id has is only known by trying; if neither is there, the plain ones are what is missed.
    """
    half = options | {"variant": HALF}
    if Path(place).is_dir():
        return load(loader, place, half if any(is_only_half(Path(place) / part) for part in parts) else options)
    try:
        return load(loader, place, options)
    except ModelError as error:
        try:
            return load(loader, place, half)
        except ModelError:
            raise error from None


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
    model, report = _load(CLIPTextModel.from_pretrained, place, names | more, ["text_encoder"])
    refuse_missing(f"{place}/text_encoder", report["missing_keys"])
    return model


def _check_weights(place: str, pipe: StableDiffusionPipeline) -> None:
    for part, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            refuse_missing(f"{place}/{part}", [name for name, weight in module.named_parameters() if weight.is_meta])
