"""Take an erasure out of the graph: as a checkpoint, as K/V weights, as a LoRA, as one file.

Every export is a folder with a model card. It is written under a temporary name and renamed.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError

from realera.erasures.apply import apply_erasure, changed_weights
from realera.erasures.artifact import ADAPTER_FOLDER, LORA_FILE, Erasure, read_erasure
from realera.erasures.finished import Finished, check_parameters
from realera.exports import singlefile
from realera.exports.card import CARD, TAG, Options, write_card
from realera.exports.classic import ask_for_float32, classic_pipeline
from realera.exports.copying import EDITED, copy_unedited, follow_umask
from realera.families.stable_diffusion import checkpoint_folder, open_pipeline
from realera.runtime.devices import DTYPES
from realera.settings.errors import ArtifactError, RealEraError
from realera.store.artifacts import atomic_path, write_safetensors

KV_FILE = "kv_patch.safetensors"
LORA_FOLDER = "lora"
UNET_FILE = f"{EDITED}/diffusion_pytorch_model.safetensors"

_ALL_BUT_UNET = ("vae", "text_encoder", "tokenizer")


def export(
    erasure: Finished,
    format: str,
    out: Path,
    options: Options | None = None,
    force: bool = False,
) -> None:
    """Write an export folder.

    Args:
        erasure: what is exported.
        format: a key of FORMATS.
        out: a new or empty folder, or with `force` an earlier export, which is replaced.
        options: see `realera.exports.card.Options`.
        force: replace an earlier export.

    Raises:
        RealEraError: the format is unknown, or something else is at `out`.
        ArtifactError: an artifact is corrupt, not of this model or made with other parameters, or
            writing failed.
    """
    if format not in FORMATS:
        raise RealEraError(f"--format: found {format!r}; accepted: {', '.join(FORMATS)}")
    options = options or Options()
    if (format == "lora" or options.keep_lora) and not erasure.has_lora:
        what = "--format: found lora" if format == "lora" else "--keep-lora"
        raise RealEraError(f"{what}: the erasure by {erasure.method} has no LoRA; accepted: another format")
    out = out.expanduser().resolve()
    check_out(out, force)
    check_parameters(erasure)
    try:
        with atomic_path(out) as folder:
            folder.mkdir()
            FORMATS[format](erasure, options, folder)
            write_card(erasure, format, options, folder)
    except SafetensorError as error:
        raise ArtifactError(f"{out}: cannot be written: {error}") from error


def check_out(out: Path, force: bool) -> None:
    """Refuse a file, and a folder whose content would be lost.

    Raises:
        RealEraError: something is there that is not to be replaced.
    """
    if out.is_file():
        raise RealEraError(f"--out: found a file, {str(out)!r}; accepted: a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not force:
        raise RealEraError(f"--out: found {str(out)!r}, which is not empty; accepted: a new folder, or --force")
    card = out / CARD
    if not card.is_file() or TAG not in card.read_text(encoding="utf-8", errors="replace"):
        raise RealEraError(f"--out: found {str(out)!r}, no earlier export; --force replaces only those")


def _export_pipeline(erasure: Finished, options: Options, folder: Path) -> None:
    """Write a diffusers folder: the UNet's weights anew, the rest as the base model has it."""
    model = erasure.params.model
    source = checkpoint_folder(model.id, model.revision)
    pipe = _open_base(erasure, options.dtype, without=_ALL_BUT_UNET if source else ())
    apply_erasure(pipe, _erasure(erasure, options))
    if source:
        copy_unedited(source, folder)
        write_safetensors(pipe.unet.state_dict(), folder / UNET_FILE, {"format": "pt"})
    else:
        _save_whole(pipe, folder)
    if options.keep_lora:
        _copy_lora(erasure, folder / LORA_FOLDER)


def _save_whole(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Write every component of a model that has no folder to copy from."""
    pipe.save_pretrained(folder, safe_serialization=True)
    ask_for_float32(folder / "text_encoder")
    classic_pipeline(folder)
    follow_umask(folder)


def _export_kv(erasure: Finished, options: Options, folder: Path) -> None:
    """Write the erased model's K/V weights, by default with the LoRA in them."""
    weights = dict(_erasure(erasure, options).overlay) if options.keep_lora else _erased_weights(erasure)[1]
    dtype = DTYPES[options.dtype]
    weights = {name: weight.to(dtype) for name, weight in weights.items()}
    write_safetensors(weights, folder / KV_FILE, _metadata(erasure))


def _export_lora(erasure: Finished, options: Options, folder: Path) -> None:
    """Write the LoRA, and the closed form's weights that it belongs on top of."""
    _copy_lora(erasure, folder)
    _export_kv(erasure, Options(keep_lora=True, dtype=options.dtype), folder)


def _export_single_file(erasure: Finished, options: Options, folder: Path) -> None:
    base, erased = _erased_weights(erasure)
    dtype = DTYPES[options.dtype]
    tensors = singlefile.single_file_tensors(base, erased, options.tolerance, dtype)
    width = next(iter(base.values())).shape[1]
    metadata = singlefile.single_file_metadata(width) | _metadata(erasure)
    write_safetensors(tensors, folder / single_file_name(erasure.concept), metadata)


FORMATS: dict[str, Callable[[Finished, Options, Path], None]] = {
    "pipeline": _export_pipeline,
    "kv": _export_kv,
    "lora": _export_lora,
    "single-file": _export_single_file,
}
"""What each `--format` writes into a folder."""


def single_file_name(concept: str) -> str:
    """Return the name of the file for ComfyUI and A1111, which is also the name shown there."""
    return f"erase-{concept}.safetensors"


def _erased_weights(erasure: Finished) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the weights that the erasure changes, of the base and of the erased model, LoRA merged, in float32."""
    pipe = _open_base(erasure, "float32", without=_ALL_BUT_UNET)
    apply_erasure(pipe, erasure.folder)
    return changed_weights(pipe)


def _erasure(erasure: Finished, options: Options) -> Erasure:
    """Return the erasure, without its LoRA where that stays apart."""
    found = read_erasure(erasure.folder)
    return replace(found, adapter={}) if options.keep_lora else found


def _open_base(erasure: Finished, dtype: str, without: Sequence[str] = ()) -> StableDiffusionPipeline:
    """Open the base model on the CPU, where every export is made."""
    where = erasure.params.model.model_dump() | {"dtype": dtype, "device": "cpu"}
    return open_pipeline(**where, without=without, scheduler=None)


def _copy_lora(erasure: Finished, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    shutil.copyfile(erasure.folder / ADAPTER_FOLDER / LORA_FILE, folder / LORA_FILE)


def _metadata(erasure: Finished) -> dict[str, str]:
    """Return what a file says of itself when it has lost its card."""
    pairs = ", ".join(f"{target} -> {anchor}" for target, anchor in erasure.preset.pairs())
    return {"format": "pt", "base_model": erasure.params.model.id, "concept": erasure.concept, "erased": pairs}
