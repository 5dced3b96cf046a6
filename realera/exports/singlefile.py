"""One file that changes a model's K/V weights in ComfyUI, in A1111 and in diffusers.

The three read the same format, which kohya's sd-scripts introduced: for each layer a low-rank
product, named after the layer's path with underscores. They add it to the base model's weight:

    W' = W0 + strength * alpha / rank * lora_up @ lora_down

ComfyUI reads it with its node "Load LoRA" (models/loras), A1111 with `<lora:name:1>` in the
prompt (models/Lora), diffusers with `load_lora_weights`. The whole change W' - W0 is factored,
closed form and LoRA together, with as many ranks as it has; strength 0 is the base model.
"""

from collections.abc import Mapping

import torch

PREFIX = "lora_unet_"

_WIDTH_OF_SD2 = 1024
"""Width of the text embedding of Stable Diffusion 2.x; 1.x has 768."""


def low_rank(change: torch.Tensor, tolerance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor a matrix into up [rows, rank] @ down [rank, columns], of the least rank that serves.

    The rank is the least with |change - up @ down| <= tolerance * |change| (Frobenius norms,
    truncated singular value decomposition in float64); it is 1 for a change of zero.

    Args:
        change: [rows, columns].
        tolerance: 0 keeps every rank.
    """
    left, values, right = torch.linalg.svd(change.double(), full_matrices=False)
    rank = _rank(values, tolerance)
    scale = values[:rank].sqrt()  # half of each value in either factor: both keep their accuracy in float16
    return left[:, :rank] * scale, scale[:, None] * right[:rank]


def single_file_tensors(
    base: Mapping[str, torch.Tensor],
    erased: Mapping[str, torch.Tensor],
    tolerance: float,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """Return the file's tensors: lora_up.weight, lora_down.weight and alpha for each weight.

    alpha is 1 for every weight and the factors make up for it, since diffusers ignores an alpha
    that differs from weight to weight. Strength 1 is the erased model.

    Args:
        base: {"<path>.to_k.weight": [out_features, cross_attention_dim], ...} of the base model.
        erased: the same weights of the erased model.
        tolerance: see `low_rank`.
        dtype: of the factors.
    """
    tensors = {}
    for name, weight in erased.items():
        up, down = low_rank(weight.double() - base[name].double(), tolerance)
        key = PREFIX + name.removesuffix(".weight").replace(".", "_")
        scale = down.shape[0] ** 0.5  # the readers multiply by alpha / rank
        tensors[f"{key}.lora_up.weight"] = (scale * up).to(dtype)
        tensors[f"{key}.lora_down.weight"] = (scale * down).to(dtype)
        tensors[f"{key}.alpha"] = torch.tensor(1.0)
    return tensors


def single_file_metadata(width: int) -> dict[str, str]:
    """Return kohya's metadata, by which A1111 tells for which model family a file is.

    Args:
        width: of the text embedding (cross_attention_dim).
    """
    return {"ss_network_module": "networks.lora", "ss_v2": str(width == _WIDTH_OF_SD2)}


def _rank(values: torch.Tensor, tolerance: float) -> int:
    """Return the least rank whose left-out values are small enough; values: [n], descending."""
    left_out = values.square().flip(0).cumsum(0).flip(0).sqrt()  # [n]: norm of values[i:]
    return max(1, int((left_out > tolerance * left_out[0]).sum()))
