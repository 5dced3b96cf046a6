"""Draw the same pictures in less time on a processor.

torch multiplies matrices in float32 by MKL, which uses a processor's widest registers (AVX-512) on Intel's alone.
oneDNN, which computes torch's convolutions, uses them wherever they are. And the cross-attention asks for the keys and
values of the same text in every denoising step, where once would do.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from realera.families.cross_attention import cross_attention

Forward = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def faster(pipe: StableDiffusionPipeline) -> Iterator[None]:
    """Inside the block, which is one call of the pipeline without gradients, a processor needs less time.

    Sums of many terms may differ in their last bit, which can move a channel of a pixel by 1 of 255. On a GPU nothing
    changes.

    Args:
        pipe: as it was again after the block.
    """
    with ExitStack() as stack:
        if pipe._execution_device.type == "cpu":  # an offloaded model only waits there
            for model in (pipe.text_encoder, pipe.unet):
                for layer in _slow_layers(model):
                    stack.enter_context(_replaced(layer, partial(_multiply, layer)))
            for layer in cross_attention(pipe.unet).values():
                stack.enter_context(_replaced(layer, Once(layer.forward)))
        yield


class Once:
    """A function of a tensor that is not computed again while it is given the same object."""

    def __init__(self, function: Forward) -> None:
        self._function = function
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return the function's value."""
        if self._last is None or self._last[0] is not values:
            self._last = values, self._function(values)
        return self._last[1]


def has_fast_product() -> bool:
    """Say whether oneDNN multiplies matrices here with registers that MKL may leave aside."""
    is_wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return is_wide and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _slow_layers(model: nn.Module) -> list[nn.Linear]:
    """Return the layers that MKL computes; not those whose forward pass someone else has replaced."""
    if not has_fast_product():
        return []
    linear = [layer for layer in model.modules() if type(layer) is nn.Linear]
    return [layer for layer in linear if layer.weight.dtype == torch.float32 and "forward" not in vars(layer)]


def _multiply(layer: nn.Linear, values: torch.Tensor) -> torch.Tensor:
    """Compute a linear layer by oneDNN; under autocast values may come in another precision than the weights."""
    if values.dtype != layer.weight.dtype:
        return nn.functional.linear(values, layer.weight, layer.bias)
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(values, layer.weight, layer.bias, "none", [], "")
    return product


@contextmanager
def _replaced(layer: nn.Module, forward: Forward) -> Iterator[None]:
    """Inside the block the layer computes something else."""
    before = vars(layer).get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        if before is None:
            del layer.forward
        else:
            layer.forward = before
