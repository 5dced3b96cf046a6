"""Put an erasure into a pipeline, and take it out again.

apply_erasure(pipe, "artifacts/airplane/realera/erasure")
remove_erasure(pipe)                                    # the pipeline's own weights, to the bit
"""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import StableDiffusionPipeline
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import nn

from realera.erasures.artifact import ADAPTER_FOLDER, LORA_FILE, Erasure, read_erasure, weights_sha256
from realera.settings.errors import ArtifactError, first_line
from realera.store.artifacts import existing_file, write_safetensors

ADAPTER = "realera"
"""The name of the adapter in the pipeline."""

_PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)
"""In which a pipeline may have been when an erasure was made from it."""

Active = dict[str, tuple[list[str], bool]]
"""Layer -> the adapters that work there, and whether all are switched off."""


@dataclass
class _Carried:
    """What has to be known of a model that carries an erasure, to give it its own weights again.

    Attributes:
        own: the weights that the erasure has taken the place of.
        active: the user's adapters as they were before ours came in beside them; None: ours is not there.
    """

    own: dict[str, torch.Tensor]
    active: Active | None = None


_carried: "WeakKeyDictionary[nn.Module, _Carried]" = WeakKeyDictionary()
"""Image model -> what an erasure has changed in it."""


def apply_erasure(pipe: StableDiffusionPipeline, erasure: Erasure | str | Path, merge: bool = True) -> None:
    """Make a pipeline of the base model draw as the erased one.

    Adapters that the user has loaded work as before, beside it.

    Args:
        pipe: the base model; changed in place. Its own weights are kept for `remove_erasure`.
        erasure: what a method returned, or the folder of one.
        merge: add the LoRA's product to the weights, in float32 and rounded once to the model's dtype. Otherwise it
            stays an adapter, which draws the same up to the last bits, and slower.

    Raises:
        ArtifactError: a file is missing or corrupt, the erasure is of another model, or the pipeline has one already.
    """
    found = erasure if isinstance(erasure, Erasure) else read_erasure(erasure)
    model = pipe.unet
    if carries_erasure(pipe):
        raise ArtifactError(f"{found.source}: this pipeline carries an erasure already; remove that one first")
    _check_fits(model, found.overlay, found.source)
    _check_base(model, found)
    _carried[model] = _Carried(_copies(model, found.overlay))
    try:
        _put(model, found.overlay)
        if found.adapter:
            _put_adapter(pipe, found, merge)
    except BaseException:
        remove_erasure(pipe)
        raise


def remove_erasure(pipe: StableDiffusionPipeline) -> None:
    """Give the pipeline its own weights again, to the bit; the inverse of `apply_erasure`.

    Raises:
        ArtifactError: it carries no erasure.
    """
    carried = _carried.pop(pipe.unet, None)
    if carried is None:
        raise ArtifactError("this pipeline carries no erasure that could be removed")
    _unload(pipe.unet, carried)
    _put(pipe.unet, carried.own)


def carries_erasure(pipe: StableDiffusionPipeline) -> bool:
    """Say whether `apply_erasure` has put an erasure into the pipeline that is still in."""
    return pipe.unet in _carried


def weights_of(model: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return the model's weights of these names, not copied; a LoRA on a layer is looked through.

    Raises:
        KeyError: the model has no such weight.
    """
    known = {name.replace(".base_layer.", "."): weight.data for name, weight in model.named_parameters()}
    return {name: known[name] for name in names}


def changed_weights(pipe: StableDiffusionPipeline) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the weights that the pipeline's erasure has changed, as they were and as they are.

    Raises:
        ArtifactError: it carries no erasure.
    """
    carried = _carried.get(pipe.unet)
    if carried is None:
        raise ArtifactError("this pipeline carries no erasure")
    return dict(carried.own), weights_of(pipe.unet, carried.own)


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
    if not any(ADAPTER in layer.lora_A for layer in _lora_layers(pipe.unet).values()):
        raise ArtifactError(f"{path}: holds no weight for the UNet's layers")
    if empty := [name for name, weight in pipe.unet.named_parameters() if weight.is_meta]:
        raise ArtifactError(f"{path}: holds no weight for {empty[0]}")


def lora_changes(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return {"<path>.to_k.weight": scale * B A, ...} in float32 for each layer with the adapter."""
    return {
        f"{path}.weight": layer.get_delta_weight(ADAPTER).float()
        for path, layer in _lora_layers(model).items()
        if isinstance(layer, LoraLinear) and ADAPTER in layer.lora_A
    }


def _put_adapter(pipe: StableDiffusionPipeline, erasure: Erasure, merge: bool) -> None:
    source, carried = f"{erasure.source}/{ADAPTER_FOLDER}/{LORA_FILE}", _carried[pipe.unet]
    carried.active = _active(pipe.unet)
    with tempfile.TemporaryDirectory() as folder:  # diffusers reads a LoRA's scale from a file only
        write_safetensors(erasure.adapter, Path(folder) / LORA_FILE, erasure.adapter_metadata or None)
        try:
            load_lora(pipe, Path(folder))
        except ArtifactError as error:
            raise ArtifactError(str(error).replace(str(Path(folder) / LORA_FILE), source)) from error
    if not merge:
        _work_together(pipe.unet, carried.active)
        return
    changes = lora_changes(pipe.unet)
    _unload(pipe.unet, carried)
    carried.own |= _copies(pipe.unet, changes.keys() - carried.own.keys())
    _put(pipe.unet, {name: _base(name, erasure, carried.own) + change.cpu() for name, change in changes.items()})


def _copies(model: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in weights_of(model, names).items()}


def _lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def _active(model: nn.Module) -> Active:
    return {path: (list(layer.active_adapters), layer.disable_adapters) for path, layer in _lora_layers(model).items()}


def _work_together(model: nn.Module, before: Active) -> None:
    """Let ours work beside those that worked before: the loader leaves only the newest one on."""
    for path, layer in _lora_layers(model).items():
        others, is_off = before.get(path, ([], False))
        layer.set_adapter([*([] if is_off else others), ADAPTER])
        layer.enable_adapters(True)


def _unload(model: Any, carried: _Carried) -> None:
    """Take our adapter out, if it is there, and the wrapping of layers that no other one needs."""
    before, carried.active = carried.active, None
    if before is None:
        return
    now = _active(model)
    model.delete_adapters(ADAPTER)
    if not getattr(model, "peft_config", None):
        model.unload_lora()
        return
    for path, layer in _lora_layers(model).items():
        if not layer.lora_A and not layer.lora_embedding_A:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, layer.get_base_layer())
            continue
        others = [name for name in now[path][0] if name != ADAPTER]
        names, is_off = (others, now[path][1]) if others else before.get(path, ([], False))
        layer.set_adapter(names)
        layer.enable_adapters(not is_off)


def _base(name: str, erasure: Erasure, own: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the weight under the LoRA in float32: the overlay as stored, not as the model's dtype has rounded it."""
    weight = erasure.overlay[name] if name in erasure.overlay else own[name]
    return weight.float().cpu()


def _put(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    for name, weight in weights_of(model, weights).items():
        weight.copy_(weights[name])


def _check_fits(model: nn.Module, overlay: Mapping[str, torch.Tensor], source: str) -> None:
    try:
        own = weights_of(model, overlay)
    except KeyError as error:
        raise ArtifactError(f"{source}: found {error.args[0]}, which this model does not have") from error
    for name, weight in own.items():
        if overlay[name].shape != weight.shape:
            found, needed = list(overlay[name].shape), list(weight.shape)
            raise ArtifactError(f"{source}: {name}: found shape {found}, this model has {needed}")


def _check_base(model: nn.Module, erasure: Erasure) -> None:
    """Refuse another model of the same shapes; its weights can be compared where they are as precise as they were.

    An erasure that was made from a pipeline in half precision names the weights as they were rounded there.
    """
    own = weights_of(model, erasure.overlay)
    wanted = erasure.about.base.sha256
    if not wanted or any(weight.dtype != torch.float32 for weight in own.values()):
        return
    rounded = ({name: weight.to(dtype) for name, weight in own.items()} for dtype in _PRECISIONS)
    if wanted not in map(weights_sha256, rounded):
        raise ArtifactError(
            f"{erasure.source}: made for {erasure.about.base.id}, whose weights differ from this pipeline's; "
            "accepted: the model that it was made for, unedited"
        )
