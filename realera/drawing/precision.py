"""Draw with an image model in another precision than its weights were edited in."""

from functools import partial
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from realera.drawing.faster import Once
from realera.runtime.devices import DTYPES
from realera.settings.errors import ConfigError


def check_precision(dtype: str, offload: str, target: torch.device) -> None:
    """Refuse a precision that the device can't draw in.

    Args:
        dtype: as of `draw_in`.
        offload: of section `generate`.
        target: where the model computes.

    Raises:
        ConfigError: weights are offloaded, or the GPU knows no bfloat16.
    """
    found = f"generate.dtype: found {dtype!r}"
    if dtype != "model" and offload != "none":
        raise ConfigError(f"{found} with generate.offload {offload!r}; accepted there: model, and model.dtype {dtype}")
    if dtype == "bfloat16" and target.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f"{found}; accepted on this GPU, which does not compute with it: model")


def draw_in(pipe: StableDiffusionPipeline, dtype: str) -> None:
    """Let the image model compute in a dtype; text encoder, latents, scheduler and decoder stay as they are.

    Rounding the latents themselves between steps would move the pictures far more.

    Args:
        pipe: changed in place, with its final weights, which are rounded once.
        dtype: model (nothing is changed), or a name of `realera.runtime.devices.DTYPES`.
    """
    if dtype == "model" or pipe.unet.dtype == DTYPES[dtype]:
        return
    before = pipe.unet.dtype
    nn.Module.to(pipe.unet, DTYPES[dtype])  # diffusers' own warns of layers that nobody has named
    pipe.unet.register_forward_pre_hook(_cast_inputs(DTYPES[dtype]), with_kwargs=True)
    pipe.unet.register_forward_hook(_cast_output(before))


def _cast_inputs(dtype: torch.dtype) -> Any:
    text = Once(lambda values: _as(values, dtype))  # the same object in every step: its keys are computed once, too

    def cast(_: nn.Module, arguments: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        moved = tuple(_as(value, dtype) for value in arguments)
        casts = {"encoder_hidden_states": text}
        return moved, {name: casts.get(name, partial(_as, dtype=dtype))(value) for name, value in options.items()}

    return cast


def _cast_output(dtype: torch.dtype) -> Any:
    def cast(_: nn.Module, __: tuple, output: Any) -> Any:
        if isinstance(output, tuple):
            return tuple(_as(value, dtype) for value in output)
        output.sample = _as(output.sample, dtype)
        return output

    return cast


def _as(value: Any, dtype: torch.dtype) -> Any:
    """Return a tensor of real numbers in a dtype; anything else as it is, such as the number of a timestep."""
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
