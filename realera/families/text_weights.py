"""Read the cross-attention's K and V weights of a checkpoint, and nothing else of it.

Opening a pipeline imports diffusers and transformers, which takes longer than a solve does.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realera.families.registry import MODEL_INDEX, family_of
from realera.store.checkpoints import check_folder, locate

if TYPE_CHECKING:
    import torch

CONFIG = "unet/config.json"
FILE = "unet/diffusion_pytorch_model.safetensors"

_NAME = re.compile(r"(down_blocks|up_blocks|mid_block)\..*\.attn2\.to_[kv]\.weight")
_PARTS = ("down_blocks", "up_blocks", "mid_block")
"""In the order in which the model has them."""

_OTHERWISE_NAMED = ("only_cross_attention", "mid_block_only_cross_attention", "dual_cross_attention", "encoder_hid_dim")
"""Settings of a UNet in which attn2 is not, or not alone, what reads text as it comes."""


def read_text_weights(model: dict[str, Any]) -> dict[str, "torch.Tensor"]:
    """Return what `realera.families.cross_attention.weights` does of the model in float32 on the CPU.

    They are read from a diffusers folder's file where that is plain to see; any other model, and one that cannot be
    read, is opened as a whole, which also says what is wrong with it.

    Args:
        model: section `model` of the parameters.

    Raises:
        ModelError: see `realera.families.stable_diffusion.open_pipeline`.
    """
    place = locate(model["id"])
    check_folder(place, MODEL_INDEX, "a diffusers model")
    family_of(place, model["revision"], fetch=True)
    return _from_folder(Path(place)) or _from_pipeline(model)


def _from_folder(folder: Path) -> dict[str, "torch.Tensor"]:
    """Return the weights by name, float32, in the model's order; none where the file is missing or unusual."""
    from safetensors import SafetensorError, safe_open

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config.get("_class_name") != "UNet2DConditionModel" or any(config.get(key) for key in _OTHERWISE_NAMED):
            return {}
        with safe_open(folder / FILE, framework="pt") as file:
            names = sorted(filter(_NAME.fullmatch, file.keys()), key=_order)
            return {name: file.get_tensor(name).float() for name in names}
    except (OSError, ValueError, AttributeError, RecursionError, SafetensorError):
        return {}


def _order(name: str) -> tuple[int, list[int], bool]:
    """Return a key that sorts names as the model's modules come: numbers as numbers, K before V."""
    return _PARTS.index(name.split(".")[0]), [int(part) for part in re.findall(r"\d+", name)], ".to_v." in name


def _from_pipeline(model: dict[str, Any]) -> dict[str, "torch.Tensor"]:
    from realera.families import cross_attention
    from realera.families.stable_diffusion import open_pipeline

    where = model | {"dtype": "float32", "device": "cpu"}
    pipe = open_pipeline(**where, without=("text_encoder", "tokenizer", "vae"), scheduler=None)
    return cross_attention.weights(pipe.unet)
