"""Which precision a machine works in, told by the processor's own list of instructions."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain.precision import autocast, working_dtype

CPU = torch.device("cpu")
FLAGS = Path("/proc/cpuinfo")


def flags() -> set[str]:
    return set(FLAGS.read_text(encoding="utf-8").split())


@pytest.mark.skipif(not FLAGS.exists(), reason="Linux lists the processor's instructions there")
def test_bfloat16_where_the_kernel_lists_its_instructions():
    has_bfloat16 = bool({"amx_bf16", "avx512_bf16"} & flags())
    assert working_dtype("cpu") is (torch.bfloat16 if has_bfloat16 else torch.float32)


def test_products_run_in_the_working_precision_and_weights_stay_float32():
    layer, image = nn.Conv2d(1, 1, 3), torch.zeros(1, 1, 4, 4)
    with autocast(CPU):
        assert layer(image).dtype is working_dtype(CPU)
    assert layer(image).dtype is layer.weight.dtype is torch.float32


def test_a_processor_without_the_instructions_works_in_float32(monkeypatch):
    layer, image = nn.Conv2d(1, 1, 3), torch.zeros(1, 1, 4, 4)
    for capabilities, dtype in (({"avx2": True}, torch.float32), ({"amx_bf16": True}, torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert working_dtype(CPU) is dtype
        with autocast(CPU):
            assert layer(image).dtype is dtype


def test_no_stage_names_a_precision_of_its_own(repository):
    """Only `precision.py` decides, so that no stage computes in what the processor does in software."""
    sources = [path for path in (repository / "pretrain").rglob("*.py") if path.name != "precision.py"]
    assert len(sources) > 20
    assert not [path.name for path in sources if "bfloat16" in path.read_text(encoding="utf-8")]
