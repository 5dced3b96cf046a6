"""The precision that training and drawing work in: bfloat16 where the processor computes in it, else float32.

A processor without such instructions does bfloat16 convolutions and matrix products piece by piece in software,
many times slower than float32 (pretrain/README.md has figures).
"""

import torch

_CPU_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")


def working_dtype(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 if the device has instructions for it, else float32."""
    if torch.device(device).type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        has_bfloat16 = any(capabilities.get(name, False) for name in _CPU_INSTRUCTIONS)
    return torch.bfloat16 if has_bfloat16 else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Return a context in which convolutions and matrix products run in the device's working precision."""
    dtype = working_dtype(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype is torch.bfloat16)
