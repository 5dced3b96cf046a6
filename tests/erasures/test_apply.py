"""Putting an erasure into a model, and the one file that does it elsewhere."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file

from realera.erasures.apply import apply_erasure, load_lora, lora_changes
from realera.exports.singlefile import low_rank
from realera.families import cross_attention
from realera.families.stable_diffusion import open_pipeline
from realera.settings.errors import ArtifactError
from realera.settings.presets import load_preset
from tests.kit.erasure_project import draw


def test_the_lora_and_the_patch_both_change_the_images(tiny_sd, artifacts):
    pipe = open_pipeline(tiny_sd, device="cpu")
    base = draw(pipe)
    apply_erasure(pipe, artifacts / "kv_patch.safetensors")
    patched = draw(pipe)
    assert abs(base - patched).mean() > 3
    apply_erasure(pipe, artifacts / "kv_patch.safetensors", artifacts / "lora")
    assert abs(patched - draw(pipe)).mean() > 3


def test_merged_weights_are_those_of_peft(tiny_sd, artifacts):
    own, peft = (open_pipeline(tiny_sd, device="cpu") for _ in range(2))
    apply_erasure(own, artifacts / "kv_patch.safetensors", artifacts / "lora")
    apply_erasure(peft, artifacts / "kv_patch.safetensors")
    load_lora(peft, artifacts / "lora")
    file = load_file(artifacts / "lora" / "pytorch_lora_weights.safetensors")
    for name, change in lora_changes(peft.unet).items():
        up, down = (file[f"unet.{name.removesuffix('.weight')}.lora_{factor}.weight"] for factor in "BA")
        torch.testing.assert_close(change, 3.0 * up @ down)  # alpha 6 / rank 2
    peft.fuse_lora()
    peft.unload_lora_weights()
    for name, weight in cross_attention.weights(peft.unet).items():
        torch.testing.assert_close(cross_attention.weights(own.unet)[name], weight, rtol=1e-6, atol=1e-7)


def test_merging_rounds_once(tiny_sd, artifacts):
    half = open_pipeline(tiny_sd, device="cpu", dtype="float16")
    full = open_pipeline(tiny_sd, device="cpu", dtype="float32")
    for pipe in (half, full):
        apply_erasure(pipe, artifacts / "kv_patch.safetensors", artifacts / "lora")
    assert not getattr(half.unet, "peft_config", None)
    for name, weight in cross_attention.weights(full.unet).items():
        error = (cross_attention.weights(half.unet)[name].float() - weight).norm() / weight.norm()
        assert error < 4e-4  # one rounding to 11 bits, and the LoRA's factors'


def test_a_lora_elsewhere_is_refused(tiny_sd, artifacts, tmp_path):
    pipe = open_pipeline(tiny_sd, device="cpu")
    pipe.unet.add_adapter(LoraConfig(r=1, target_modules=["attn1.to_k"]))
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(pipe.unet))
    pipe = open_pipeline(tiny_sd, device="cpu")
    with pytest.raises(ArtifactError, match=r"found a LoRA on .*attn1"):
        apply_erasure(pipe, artifacts / "kv_patch.safetensors", tmp_path)


def test_single_file_by_the_formula_of_comfyui_and_a1111(run, tmp_path, tiny_sd, artifacts):
    run("export", "airplane", "--format", "single-file", "--out", tmp_path / "out")
    file = load_file(tmp_path / "out" / "erase-airplane.safetensors")
    pipe = open_pipeline(tiny_sd, device="cpu")
    base = {name: weight.clone() for name, weight in cross_attention.weights(pipe.unet).items()}
    apply_erasure(pipe, artifacts / "kv_patch.safetensors", artifacts / "lora")
    assert len(file) == 3 * len(base)
    for name, wanted in cross_attention.weights(pipe.unet).items():
        key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        up, down, alpha = (file[f"{key}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
        found = base[name] + alpha / down.shape[0] * up @ down
        assert (found - wanted).norm() <= 2e-5 * (wanted - base[name]).norm()


def test_files_tell_what_they_are(run, tmp_path):
    run("export", "airplane", "--format", "single-file", "--out", tmp_path / "out")
    with safe_open(tmp_path / "out" / "erase-airplane.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["base_model"] == "data/models/tiny-sd"
    assert metadata["erased"] == " -> ".join(load_preset("airplane").pairs()[0])
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["ss_v2"] == "False"


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    rank=st.integers(0, 24),
    tolerance=st.sampled_from([0.0, 1e-6, 1e-2, 0.3]),
    seed=st.integers(0, 1000),
)
def test_low_rank_is_the_least_rank_within_the_tolerance(rows, columns, rank, tolerance, seed):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
    change = left @ torch.randn(rank, columns, generator=generator, dtype=torch.float64)
    up, down = low_rank(change, tolerance)
    norm = change.norm()
    assert (change - up @ down).norm() <= (tolerance + 1e-12) * norm
    if tolerance > 0:
        assert down.shape[0] <= max(1, min(rows, columns, rank))
    if down.shape[0] > 1:
        fewer = up[:, :-1] @ down[:-1]
        assert (change - fewer).norm() > tolerance * norm
