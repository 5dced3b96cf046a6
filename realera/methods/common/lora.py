"""The LoRA on the cross-attention K and V: put it on a UNet, look past it, checkpoint and save it.

It is loaded again with diffusers' own loader, see `realera.erasures.apply.load_lora`.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file

from realera.erasures.apply import ADAPTER
from realera.erasures.artifact import LORA_FILE
from realera.families.cross_attention import cross_attention, swapped
from realera.settings.config import LoraParams
from realera.settings.errors import first_line
from realera.store import seeds
from realera.store.artifacts import write_safetensors

CHECKPOINT = "checkpoint.safetensors"

Row: TypeAlias = tuple[float, ...]
"""Loss and its parts after a step."""


def add_lora(unet: UNet2DConditionModel, params: LoraParams) -> dict[str, torch.nn.Parameter]:
    """Put an adapter on the cross-attention that changes nothing yet, and freeze the rest.

    h = W x + (alpha / rank) B A x  with A drawn from a Gaussian of standard deviation 1 / rank
    and B zero (the paper's equation 2 and its text). A depends on `params.seed` alone, not on
    the model's dtype or device.

    Args:
        unet: changed in place; its cross-attention K and V layers (`params.targets`) are wrapped.
        params: rank, alpha, targets and seed are read.

    Returns:
        The adapter's weights, float32, in module order: A is [rank, d], B is [out_features, rank].

    Raises:
        ModelError: the UNet has no cross-attention.
    """
    names = [name for name in cross_attention(unet) if name.endswith(params.targets)]
    unet.requires_grad_(False)
    alpha: Any = params.alpha  # peft's annotation says int; its arithmetic does not
    unet.add_adapter(LoraConfig(r=params.rank, lora_alpha=alpha, target_modules=names), adapter_name=ADAPTER)
    own = {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}
    generator = seeds.generator(params.seed, "lora")
    for name, weight in own.items():
        weight.data = weight.data.float()  # half precision would lose most of an update
        if ".lora_A." in name:
            weight.data.copy_(torch.randn(weight.shape, generator=generator) / params.rank)
    return own


@contextmanager
def untouched(unet: UNet2DConditionModel, original: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside the block the UNet is the one before any erasure: original K/V weights, no adapter.

    Args:
        unet: as it was again after the block; nothing is copied.
        original: the K/V weights, keyed as `realera.families.cross_attention.weights`, of the UNet's dtype and device.
    """
    layers = [layer for layer in unet.modules() if isinstance(layer, LoraLayer)]
    with swapped(unet, original):
        try:
            for layer in layers:
                layer.enable_adapters(False)
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)


def save_adapter(unet: UNet2DConditionModel, folder: str | Path) -> Path:
    """Write `folder/pytorch_lora_weights.safetensors` as diffusers does, with bytes that repeat.

    Stock `pipe.load_lora_weights(folder)` reads it, and its scale alpha / rank from the metadata.

    Args:
        unet: has the adapter of `add_lora`.
        folder: made if needed.

    Returns:
        The file's path.
    """
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(_settings(unet), sort_keys=True)}

    def save(tensors: dict[str, torch.Tensor], path: str) -> None:
        write_safetensors({name: tensor.detach().cpu() for name, tensor in tensors.items()}, path, metadata)

    own = get_peft_model_state_dict(unet, adapter_name=ADAPTER)
    layers = convert_state_dict_to_diffusers(own)
    StableDiffusionPipeline.save_lora_weights(folder, layers, weight_name=LORA_FILE, save_function=save)
    return Path(folder) / LORA_FILE


def save_checkpoint(
    folder: Path,
    rows: list[Row],
    lora: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: Any = None,
) -> None:
    """Write the state after `len(rows)` steps to one file in `folder`, whole or not at all.

    Args:
        folder: made if needed.
        rows: one for each step so far, of equal length.
        lora: from `add_lora`.
        optimizer: over the values of `lora`, in that order.
        scaler: of the loss, when training in float16.
    """
    tensors: dict[str, torch.Tensor] = {f"lora/{name}": weight for name, weight in lora.items()}
    for name, state in zip(lora, _states(optimizer, len(lora)), strict=True):
        tensors |= {f"{kind}/{name}": value for kind, value in state.items()}
    tensors["rows"] = torch.tensor(rows, dtype=torch.float64)
    if scaler is not None:
        tensors["scaler"] = torch.tensor([scaler.get_scale(), scaler.state_dict()["_growth_tracker"]])
    write_safetensors({name: tensor.detach().cpu() for name, tensor in tensors.items()}, folder / CHECKPOINT)


def load_checkpoint(
    folder: Path,
    lora: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: Any = None,
) -> list[Row]:
    """Put the state of `save_checkpoint` back and return its rows; without a checkpoint there are none.

    A file that cannot be read is no reason to fail: a warning says that training starts over.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return []
    try:
        tensors = load_file(path)
        rows = [tuple(row) for row in tensors["rows"].tolist()]
        values = [tensors[f"lora/{name}"].view_as(weight) for name, weight in lora.items()]
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        reason = first_line(error)
        warnings.warn(f"{path}: not a readable checkpoint ({reason}); training starts over", stacklevel=2)
        return []
    for weight, value in zip(lora.values(), values, strict=True):
        weight.data.copy_(value)
    states = {index: _of(tensors, name) for index, name in enumerate(lora)}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": {i: state for i, state in states.items() if state}})
    if scaler is not None:
        scale, tracker = tensors["scaler"].tolist()
        scaler.load_state_dict(scaler.state_dict() | {"scale": scale, "_growth_tracker": int(tracker)})
    return rows


def _states(optimizer: torch.optim.Optimizer, num_weights: int) -> list[dict[str, torch.Tensor]]:
    """Return each weight's moments; a float16 training that has skipped every step so far has none."""
    states = optimizer.state_dict()["state"]
    return [states.get(index, {}) for index in range(num_weights)]


def _of(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    kinds = ("step", "exp_avg", "exp_avg_sq")
    return {kind: tensors[f"{kind}/{name}"] for kind in kinds if f"{kind}/{name}" in tensors}


def _settings(unet: UNet2DConditionModel) -> dict[str, object]:
    """Return what the loader makes its LoraConfig of; only keys that every version of peft knows."""
    config = unet.peft_config[ADAPTER]
    settings = {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": sorted(config.target_modules)}
    return {f"unet.{key}": value for key, value in settings.items()}
