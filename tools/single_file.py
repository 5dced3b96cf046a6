"""Write a Stable Diffusion 1.x folder as one .safetensors file, with the original repository's names.

It is what `diffusers` reads again with `from_single_file`, and what models are often given away
as. Here it serves to prove that such a file runs:

    python tools/single_file.py full-size model.safetensors
    dvc exp run -S model.id=model.safetensors -S model.config=full-size
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file

from realera.settings.errors import RealEraError
from realera.store.artifacts import read_json, write_safetensors

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

_BLOCK = re.compile(r"(down|mid|up)_blocks?(?:\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def original_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return a diffusers folder's weights by their original names.

    Raises:
        ArtifactError: a part's config.json is missing.
        OSError: a part's weights are.
    """
    unet, vae = (read_json(folder / part / "config.json") for part in ("unet", "vae"))
    names = {
        "unet": lambda key: "model.diffusion_model." + unet_name(key, unet["layers_per_block"], unet["up_block_types"]),
        "vae": lambda key: "first_stage_model." + vae_name(key, len(vae["up_block_types"])),
        "text_encoder": lambda key: f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}",
    }
    weights = {part: load_file(_weights_file(folder / part)) for part in names}
    weights["vae"] = {key: as_convolution(key, weight) for key, weight in weights["vae"].items()}
    return {names[part](key): weight for part, found in weights.items() for key, weight in found.items()}


def unet_name(key: str, layers_per_block: int, up_block_types: list[str]) -> str:
    """Return the original name of a UNet's weight; its blocks are numbered through there."""
    found = _BLOCK.fullmatch(key)
    if found is None:
        return _renamed(key, UNET_ENDS)
    side, block, kind, index, rest = found.groups()
    position = (layers_per_block + 1) * int(block or 0) + int(index)
    if kind == "resnets":
        rest = _renamed(rest, RESNET)
    if side == "mid":
        return f"middle_block.{2 * int(index) if kind == 'resnets' else 1}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{position + layers_per_block + 1}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        slot = 2 if up_block_types[int(block)].startswith("CrossAttn") else 1
        return f"output_blocks.{position + layers_per_block}.{slot}.{rest}"
    slot = 0 if kind == "resnets" else 1
    return f"input_blocks.{position + 1}.{slot}.{rest}" if side == "down" else f"output_blocks.{position}.{slot}.{rest}"


def vae_name(key: str, num_blocks: int) -> str:
    """Return the original name of a VAE's weight; its decoder counts blocks from the image on."""
    half, _, inner = key.partition(".")
    found = _BLOCK.fullmatch(inner)
    if found is None:
        return key.replace("conv_norm_out", "norm_out")
    side, block, kind, index, rest = found.groups()
    rest = rest.replace("conv_shortcut", "nin_shortcut")
    if kind == "attentions":
        return f"{half}.mid.attn_1.{_renamed(rest, VAE_ATTENTION)}"
    if side == "mid":
        return f"{half}.mid.block_{int(index) + 1}.{rest}"
    number = int(block) if side == "down" else num_blocks - 1 - int(block)
    place = {"resnets": f"block.{index}", "downsamplers": "downsample", "upsamplers": "upsample"}[kind]
    return f"{half}.{side}.{number}.{place}.{rest}"


def as_convolution(key: str, weight: torch.Tensor) -> torch.Tensor:
    """Return a 1 x 1 convolution for a matrix of the VAE's attention, where the original has such."""
    return weight[:, :, None, None] if ".attentions." in key and weight.ndim == 2 else weight


def _renamed(key: str, names: Mapping[str, str]) -> str:
    """Replace the start of a dotted name."""
    start = next(old for old in names if key.startswith(f"{old}."))
    return names[start] + key.removeprefix(start)


def _weights_file(folder: Path) -> Path:
    names = ("diffusion_pytorch_model.safetensors", "model.safetensors")
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def main(
    folder: Annotated[Path, typer.Argument(help="A diffusers folder.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
) -> None:
    """Write a Stable Diffusion 1.x folder as one .safetensors file, with the original repository's names."""
    try:
        write_safetensors(original_tensors(folder), out)
    except (RealEraError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    typer.run(main)
