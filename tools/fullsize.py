"""Build a checkpoint with the exact architecture of Stable Diffusion v1.4 and random weights.

What it draws is noise. It is there to prove, without a download, that the pipeline runs at
full size, and to measure how long that takes and how much memory it needs:

    python tools/fullsize.py --out full-size
    dvc exp run -S model.id=full-size
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils import logging as transformers_logging

from realera.exports.classic import ask_for_float32, classic_text_encoder
from realera.settings import project
from realera.settings.errors import RealEraError
from realera.store.artifacts import atomic_path, write_json

TOKENIZER = Path("data/models/tiny-sd/tokenizer")
"""CLIP's own tokenizer: 49,408 entries, 77 tokens."""

UNET = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
}
VAE = {
    "sample_size": 512,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TEXT_ENCODER = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}

PARTS: dict[str, tuple[Callable[[], Any], int]] = {
    "unet": (lambda: UNet2DConditionModel(**UNET), 859_520_964),
    "vae": (lambda: AutoencoderKL(**VAE), 83_653_863),
    "text_encoder": (lambda: CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)), 123_060_480),
}
"""How each part is built, and how many parameters Stable Diffusion v1.4 has there."""

DTYPES = {"float16": torch.float16, "float32": torch.float32}


def build(out: Path, dtype: torch.dtype = torch.float16, seed: int = 0) -> None:
    """Write the checkpoint as a diffusers folder, one part in memory at a time.

    Args:
        out: a new folder.
        dtype: of the weights on disk.
        seed: of the weights.

    Raises:
        RealEraError: the folder exists, or the disk or the tokenizer is not enough.
    """
    tokenizer = _check(out, dtype)
    with atomic_path(out) as folder:
        for number, name in enumerate(PARTS):
            _save_part(name, folder / name, dtype, seed + number)
        ask_for_float32(folder / "text_encoder")
        classic_text_encoder(folder / "text_encoder")
        shutil.copytree(tokenizer, folder / "tokenizer")
        PNDMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
        write_json(_model_index(), folder / "model_index.json")


def new_part(name: str) -> Any:
    """Return a part with weights from torch's global generator, of the size that it must have."""
    make, num_needed = PARTS[name]
    part = make()
    num_found = sum(parameter.numel() for parameter in part.parameters())
    assert num_found == num_needed, f"{name}: {num_found} parameters, Stable Diffusion v1.4 has {num_needed}"
    return part


def _save_part(name: str, folder: Path, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    part = new_part(name).to(dtype)
    part.save_pretrained(folder, safe_serialization=True)


def _model_index() -> dict[str, Any]:
    return {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _check(out: Path, dtype: torch.dtype) -> Path:
    """Refuse before the work what would fail after it; return the tokenizer's folder."""
    if out.exists():
        raise RealEraError(f"--out: found {str(out)!r}, which exists; accepted: a new folder")
    tokenizer = project.find(TOKENIZER)
    if tokenizer is None:
        raise RealEraError(f"{TOKENIZER}: the embedded model's tokenizer is missing")
    needed = sum(num for _, num in PARTS.values()) * dtype.itemsize
    free = shutil.disk_usage(_existing_parent(out)).free
    if free < needed * 1.02:
        raise RealEraError(f"--out: {out} needs {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free")
    return tokenizer


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())


def main(
    out: Annotated[Path, typer.Option(help="The folder to make; 2.1 GB, as float32 4.3 GB.")],
    dtype: Annotated[Literal["float16", "float32"], typer.Option(help="Of the weights on disk.")] = "float16",
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights.")] = 0,
) -> None:
    """Build a checkpoint with the exact architecture of Stable Diffusion v1.4 and random weights."""
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        build(out, DTYPES[dtype], seed)
    except (RealEraError, SafetensorError, OSError) as error:
        sys.exit(f"error: {error}")
    typer.echo(out)


if __name__ == "__main__":
    typer.run(main)
