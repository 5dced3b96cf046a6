"""The cross-attention K and V matrices of a UNet: find, read, patch, swap.

They are all that the closed form changes, since only they see the text embedding.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from realera.settings.errors import ArtifactError, ModelError

MATRICES = ("to_k", "to_v")


def cross_attention(unet: nn.Module) -> dict[str, nn.Linear]:
    """Return {"<path>.to_k": layer, "<path>.to_v": layer}, in module order.

    Layers are found by what they are: an attention that reads another sequence than its own.
    A LoRA on a layer is looked through.

    Raises:
        ModelError: the model has no cross-attention.
    """
    layers = {
        f"{path}.{matrix}": _base_layer(getattr(attention, matrix))
        for path, attention in unet.named_modules()
        if isinstance(attention, Attention) and attention.is_cross_attention
        for matrix in MATRICES
    }
    if not layers:
        raise ModelError(f"{type(unet).__name__}: no cross-attention, so there is no text to erase from it")
    return layers


def weights(unet: nn.Module) -> dict[str, torch.Tensor]:
    """Return {"<path>.to_k.weight": [out_features, cross_attention_dim], ...}, not copied."""
    return {f"{name}.weight": layer.weight.data for name, layer in cross_attention(unet).items()}


def patch(unet: nn.Module, new_weights: Mapping[str, torch.Tensor], source: str = "K/V patch") -> None:
    """Copy other K/V weights into the model, converted to its dtype and device.

    Args:
        unet: changed in place.
        new_weights: one tensor for each key of `weights(unet)`.
        source: file named in errors.

    Raises:
        ArtifactError: a key is missing or unknown, or a shape differs; nothing is changed then.
    """
    own = weights(unet)
    check_fits(own, new_weights, source)
    for name, weight in own.items():
        weight.copy_(new_weights[name])


@contextmanager
def swapped(unet: nn.Module, other_weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Use other K/V weights inside the block, by pointer: nothing is copied.

    Args:
        unet: has its own weights again after the block.
        other_weights: keyed as `weights(unet)`, on the same device and of the same dtype.
    """
    layers = cross_attention(unet)
    own = {name: layer.weight.data for name, layer in layers.items()}
    check_fits({f"{name}.weight": weight for name, weight in own.items()}, other_weights, "swapped weights")
    try:
        for name, layer in layers.items():
            layer.weight.data = other_weights[f"{name}.weight"]
        yield
    finally:
        for name, layer in layers.items():
            layer.weight.data = own[name]


def check_fits(own: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse K/V weights of another model.

    Args:
        own: the model's.
        new: those to put in their place.
        source: file named in errors.

    Raises:
        ArtifactError: a key is missing or unknown, or a shape differs.
    """
    if missing := sorted(set(own) - set(new)):
        raise ArtifactError(f"{source}: no weight {missing[0]} ({len(missing)} missing); it is not of this model")
    if unknown := sorted(set(new) - set(own)):
        raise ArtifactError(f"{source}: found {unknown[0]}, which this model does not have")
    for name, weight in own.items():
        if new[name].shape != weight.shape:
            found, needed = list(new[name].shape), list(weight.shape)
            raise ArtifactError(f"{source}: {name}: found shape {found}, this model has {needed}")


def _base_layer(layer: nn.Module) -> nn.Linear:
    """Return the Linear inside a peft layer, or the layer itself."""
    base: nn.Linear = getattr(layer, "base_layer", layer)  # type: ignore[arg-type]
    return base
