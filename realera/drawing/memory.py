"""What diffusers has for drawing with less memory."""

import torch
from diffusers import StableDiffusionPipeline


def save_memory(
    pipe: StableDiffusionPipeline,
    attention_slicing: bool = False,
    vae_slicing: bool = False,
    vae_tiling: bool = False,
    offload: str = "none",
    device: torch.device | None = None,
) -> None:
    """Switch on what diffusers has for drawing with less memory; see section `generate` of the parameters.

    Args:
        pipe: changed in place, with its final weights: an offloaded model cannot be patched.
        attention_slicing: attention in two steps.
        vae_slicing: one image at a time through the decoder.
        vae_tiling: images larger than the model's own in tiles.
        offload: none; model or sequential: weights wait in the CPU's memory. For these the pipeline is on the CPU.
        device: where an offloaded model computes.
    """
    if attention_slicing:
        pipe.enable_attention_slicing()
    if vae_slicing:
        pipe.vae.enable_slicing()
    if vae_tiling:
        pipe.vae.enable_tiling()
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    if offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
