"""Open a text-to-image model or a judge from a folder, a hub id or a single file.

Weights are read from safetensors only: a pickle can run code.
"""

import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTextModel, CLIPTokenizer

from realera import project
from realera.errors import ConfigError, ModelError, printable

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "pndm": PNDMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpmsolver": DPMSolverMultistepScheduler,
}
_SCHEDULER_OPTIONS = {
    "pndm": {"skip_prk_steps": True},  # as every Stable Diffusion has it
    "ddim": {"clip_sample": False},  # latents have no bounds; another scheduler's configuration does not say so
}
_UNUSED = ("safety_checker", "feature_extractor")  # the second only serves the first
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

Loaded = TypeVar("Loaded")


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
        ModelError: nothing is there, it is no Stable Diffusion model, or it is corrupt.
    """
    place = _locate(id)
    target = resolve_device(device)
    options: dict[str, Any] = {
        "dtype": resolve_dtype(dtype, target),
        "requires_safety_checker": False,
        **dict.fromkeys((*_UNUSED, *without)),
    }
    if Path(place).is_file():
        pipe = _load_single_file(place, config, options)
    else:
        _check_folder(place, "model_index.json", "a diffusers model")
        options |= {"use_safetensors": True, "revision": revision}
        if "text_encoder" not in without:
            options["text_encoder"] = _load_text_encoder(place, options)
        pipe = _load(StableDiffusionPipeline.from_pretrained, place, options)
    _check_weights(place, pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(target)


def open_judge(
    id: str | Path,
    revision: str | None = None,
    device: str = "auto",
) -> tuple[CLIPModel, CLIPProcessor]:
    """Open a CLIP model in float32 and its processor.

    Raises:
        ModelError: nothing is there, it is no CLIP model, or weights are missing or corrupt.
    """
    place = _locate(id)
    _check_folder(place, "config.json", "a CLIP model")
    where = {"revision": revision}
    weights = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, report = _load(CLIPModel.from_pretrained, place, where | weights)
    _refuse_missing(place, report["missing_keys"])
    # Named, because CLIPProcessor.from_pretrained warns when torchvision is not installed.
    image_processor = _load(CLIPImageProcessorPil.from_pretrained, place, where)
    tokenizer = _load(CLIPTokenizer.from_pretrained, place, where)
    return model.eval().to(resolve_device(device)), CLIPProcessor(image_processor, tokenizer)


def open_classifier(
    id: str | Path,
    revision: str | None = None,
    device: str = "auto",
) -> tuple["PreTrainedModel", "BaseImageProcessor"]:
    """Open an image-classification checkpoint in float32 and its image processor.

    Args:
        id: a folder (relative to the working folder or to the project) or a hub id, with weights in
            safetensors and its image processor's configuration. Code that a checkpoint brings is not run.
        revision: branch, tag or commit of a hub id.
        device: see `resolve_device`.

    Raises:
        ModelError: nothing is there, it is no such model, or weights are missing or corrupt.
    """
    from transformers import AutoImageProcessor, AutoModelForImageClassification  # takes a while

    place = _locate(id)
    _check_folder(place, "config.json", "an image-classification model")
    where = {"revision": revision, "trust_remote_code": False}
    weights = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, report = _load(AutoModelForImageClassification.from_pretrained, place, where | weights)
    _refuse_missing(place, report["missing_keys"])
    # Named, because the other processors need torchvision, and say so when it is not installed.
    processor = _load(AutoImageProcessor.from_pretrained, place, where | {"backend": "pil"})
    return model.eval().to(resolve_device(device)), processor


def use_scheduler(pipe: StableDiffusionPipeline, name: str) -> None:
    """Give the pipeline the named scheduler, with the noise schedule that it was trained on.

    Args:
        pipe: changed in place.
        name: `model` keeps the scheduler saved with the model; otherwise a key of SCHEDULERS.

    Raises:
        ModelError: the name is not known.
    """
    if name == "model":
        return
    if name not in SCHEDULERS:
        raise ModelError(f"scheduler: found {name!r}; accepted: model, {', '.join(SCHEDULERS)}")
    pipe.scheduler = SCHEDULERS[name].from_config(pipe.scheduler.config, **_SCHEDULER_OPTIONS.get(name, {}))


def resolve_device(name: str = "auto") -> torch.device:
    """Return the named device; `auto` takes a GPU if there is one.

    Raises:
        ModelError: the name is not a device, or this machine does not have it.
    """
    if name == "auto":
        return torch.device(_best_device())
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ModelError(f"device: found {name!r}; accepted: auto, cpu, cuda, cuda:1, mps")
    device = torch.device(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device: found 'mps'; this machine has none, accepted: auto, cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ModelError(f"device: found {name!r}; torch sees {count} CUDA devices here")
    return device


def check_num_processes(key: str, num_processes: int, device: str, num_gpus: int) -> None:
    """Refuse more processes than GPUs; a CPU serves any number.

    Args:
        key: of the parameter that was found, for the message.
        num_processes: on this machine.
        device: resolved: cpu, mps, cuda (all GPUs) or cuda:1 (that one).
        num_gpus: CUDA devices here.

    Raises:
        ConfigError: there are too many.
    """
    most = most_processes(device, num_gpus)
    if most is not None and num_processes > most:
        raise ConfigError(f"{key}: found {num_processes}; accepted on {device}: at most {most}, one for each GPU")


def most_processes(device: str, num_gpus: int) -> int | None:
    """Return how many processes a device serves: one on each GPU; None is any number.

    Args:
        device: as in `check_num_processes`.
        num_gpus: likewise.
    """
    return {"cpu": None, "cuda": num_gpus}.get(device, 1)


def process_device(rank: int, device: str, num_gpus: int) -> str:
    """Return the device of one of several processes on a machine.

    Args:
        rank: of the process, from 0.
        device: as in `check_num_processes`.
        num_gpus: likewise.
    """
    return f"cuda:{rank}" if device == "cuda" and rank < num_gpus else device


def save_memory(
    pipe: StableDiffusionPipeline,
    attention_slicing: bool = False,
    vae_slicing: bool = False,
    vae_tiling: bool = False,
    offload: str = "none",
    device: torch.device | None = None,
) -> None:
    """Switch on what diffusers has for drawing with less memory; see section `generate` of the parameters.

    Args:
        pipe: changed in place, with its final weights: an offloaded model cannot be patched.
        attention_slicing: attention in two steps.
        vae_slicing: one image at a time through the decoder.
        vae_tiling: images larger than the model's own in tiles.
        offload: none; model or sequential: weights wait in the CPU's memory. For these the pipeline is on the CPU.
        device: where an offloaded model computes.
    """
    if attention_slicing:
        pipe.enable_attention_slicing()
    if vae_slicing:
        pipe.vae.enable_slicing()
    if vae_tiling:
        pipe.vae.enable_tiling()
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    if offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the named dtype; `auto` is float16 on CUDA and float32 elsewhere.

    Raises:
        ModelError: the name is not one of DTYPES.
    """
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ModelError(f"dtype: found {name!r}; accepted: auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _locate(id: str | Path) -> str:
    """Return the path of a folder or file that exists, else the id if the hub may have it."""
    text = str(id)
    if (found := project.find(text)) is not None:
        return str(found)
    if _HUB_ID.fullmatch(text) and not text.endswith(".safetensors"):
        return text
    raise ModelError(f"{text}: no such model; accepted: a folder, a hub id (owner/name), a .safetensors file")


def _check_folder(place: str, needed: str, kind: str) -> None:
    """Refuse a local folder without its index file, with what it holds instead."""
    folder = Path(place)
    if not folder.is_dir() or (folder / needed).is_file():
        return
    names = sorted(os.listdir(folder))
    found = ", ".join(names[:5]) or "nothing"
    raise ModelError(f"{place}: not {kind}: no {needed} in the folder, which holds {found}")


def _load_single_file(place: str, config: str | Path | None, options: dict[str, Any]) -> StableDiffusionPipeline:
    if not place.endswith(".safetensors"):
        raise ModelError(f"{place}: found a {Path(place).suffix} file; accepted: .safetensors")
    if config is not None:
        options = options | {"config": _locate(config)}
    try:
        return _load(StableDiffusionPipeline.from_single_file, place, options)
    except ModelError as error:
        hint = "" if config is not None else "; model.config: found null, so the hub is asked for the architecture"
        raise ModelError(f"{error}{hint}") from error


def _load_text_encoder(place: str, options: dict[str, Any]) -> CLIPTextModel:
    """Load it apart from the pipeline, which would fill weights that are missing with random ones."""
    names = {name: options[name] for name in ("dtype", "use_safetensors", "revision")}
    more = {"subfolder": "text_encoder", "output_loading_info": True}
    model, report = _load(CLIPTextModel.from_pretrained, place, names | more)
    _refuse_missing(f"{place}/text_encoder", report["missing_keys"])
    return model


def _check_weights(place: str, pipe: StableDiffusionPipeline) -> None:
    for part, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            _refuse_missing(f"{place}/{part}", [name for name, weight in module.named_parameters() if weight.is_meta])


def _refuse_missing(place: str, names: Collection[str]) -> None:
    if names:
        raise ModelError(f"{place}: weights are missing, among them {', '.join(sorted(names)[:3])}")


def _load(loader: Callable[..., Loaded], place: str, options: dict[str, Any]) -> Loaded:
    """Call a library's loader; whatever it raises becomes one line that names the place."""
    try:
        return loader(place, **options)
    except Exception as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ModelError(f"{place}: cannot be loaded: {printable(reason)}") from error
