"""Put an erasure into a model: the patched K/V weights, and the LoRA on top of them."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft.tuners.lora import Linear as LoraLinear

from realera.erasures.finished import LORA_FILE
from realera.families import cross_attention
from realera.settings.errors import ArtifactError, first_line
from realera.store.artifacts import existing_file, read_safetensors

ADAPTER = "realera"
"""The name of the adapter in the pipeline."""


def apply_erasure(
    pipe: StableDiffusionPipeline,
    kv_patch: Path,
    lora: Path | None = None,
    merge: bool = True,
) -> None:
    """Make a pipeline of the base model draw as the erased one.

    Args:
        pipe: the base model; changed in place.
        kv_patch: a kv_patch.safetensors.
        lora: the folder of a LoRA trained on top of it, or None.
        merge: add the LoRA's product to the K/V weights, in float32 and rounded once to the
            model's dtype. Otherwise it stays an adapter, which draws the same up to the last
            bits, and slower.

    Raises:
        ArtifactError: a file is missing or corrupt, or does not fit the model.
    """
    weights = read_safetensors(kv_patch)
    cross_attention.patch(pipe.unet, weights, str(kv_patch))
    if lora is None:
        return
    load_lora(pipe, lora)
    if merge:
        changes = lora_changes(pipe.unet)
        pipe.unload_lora_weights()
        cross_attention.patch(pipe.unet, _sum(weights, changes, lora), str(lora))


def load_lora(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Load a LoRA folder with diffusers' own loader, as the adapter `realera`.

    Raises:
        ArtifactError: the file is missing or corrupt, or does not fit the model.
    """
    path = existing_file(folder / LORA_FILE)
    try:
        pipe.load_lora_weights(folder, weight_name=LORA_FILE, adapter_name=ADAPTER)
    except Exception as error:  # the libraries raise anything from KeyError to RuntimeError
        raise ArtifactError(f"{path}: cannot be loaded: {first_line(error)}") from error
    if ADAPTER not in pipe.get_active_adapters():
        raise ArtifactError(f"{path}: holds no weight for the UNet's layers")
    if empty := [name for name, weight in pipe.unet.named_parameters() if weight.is_meta]:
        raise ArtifactError(f"{path}: holds no weight for {empty[0]}")


def lora_changes(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return {"<path>.to_k.weight": scale * B A, ...} in float32 for each layer with the adapter."""
    return {
        f"{path}.weight": layer.get_delta_weight(ADAPTER).float()
        for path, layer in model.named_modules()
        if isinstance(layer, LoraLinear) and ADAPTER in layer.active_adapters
    }


def _sum(weights: dict[str, torch.Tensor], changes: dict[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    if strange := sorted(set(changes) - set(weights)):
        raise ArtifactError(f"{source}: found a LoRA on {strange[0]}; accepted: cross-attention to_k and to_v")
    added = {name: weights[name].float() + change.cpu() for name, change in changes.items()}
    return weights | added
