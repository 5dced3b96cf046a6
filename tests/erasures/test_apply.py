"""Putting an erasure into a model and taking it out again, and the one file that does it elsewhere."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file

from realera.erasures.apply import (
    ADAPTER,
    apply_erasure,
    changed_weights,
    load_lora,
    lora_changes,
    remove_erasure,
)
from realera.erasures.artifact import ADAPTER_FOLDER, LORA_FILE, Erasure, read_erasure
from realera.exports.singlefile import low_rank
from realera.families import cross_attention
from realera.families.stable_diffusion import open_pipeline
from realera.settings.errors import ArtifactError
from realera.settings.presets import load_preset
from tests.kit.erasure_project import draw


@pytest.fixture(scope="module")
def foreign(tiny_sd, tmp_path_factory):
    """A LoRA of the user's own, on layers that the erasure changes and on others."""
    folder = tmp_path_factory.mktemp("style")
    save_lora(tiny_sd, folder, ["attn2.to_k", "attn1.to_q", "ff.net.2"])
    return folder


def save_lora(model, folder, targets, scale=0.2):
    pipe = open_pipeline(model, device="cpu")
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=targets))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in pipe.unet.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(pipe.unet))


def without_lora(folder):
    return replace(read_erasure(folder), adapter={}, adapter_metadata={})


def of_base(erasure, sha256):
    return erasure.about.model_copy(update={"base": erasure.about.base.model_copy(update={"sha256": sha256})})


def bits(pipe):
    """All of the image model, the user's adapters included, as copies."""
    return {name: weight.detach().clone() for name, weight in pipe.unet.named_parameters()}


def assert_same_bits(found, wanted):
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert found[name].dtype == weight.dtype
        assert torch.equal(found[name], weight), name


# --- what it does


def test_the_lora_and_the_overlay_both_change_the_images(tiny_sd, own):
    pipe = open_pipeline(tiny_sd, device="cpu")
    base = draw(pipe)
    apply_erasure(pipe, without_lora(own.erasure))
    overlaid = draw(pipe)
    assert abs(base - overlaid).mean() > 3
    remove_erasure(pipe)
    apply_erasure(pipe, own.erasure)
    assert abs(overlaid - draw(pipe)).mean() > 3


def test_merged_weights_are_those_of_peft(tiny_sd, own):
    ours, peft = (open_pipeline(tiny_sd, device="cpu") for _ in range(2))
    apply_erasure(ours, own.erasure)
    apply_erasure(peft, without_lora(own.erasure))
    load_lora(peft, own.erasure / ADAPTER_FOLDER)
    file = load_file(own.erasure / ADAPTER_FOLDER / LORA_FILE)
    for name, change in lora_changes(peft.unet).items():
        up, down = (file[f"unet.{name.removesuffix('.weight')}.lora_{factor}.weight"] for factor in "BA")
        torch.testing.assert_close(change, 3.0 * up @ down)  # alpha 6 / rank 2
    peft.fuse_lora()
    peft.unload_lora_weights()
    for name, weight in cross_attention.weights(peft.unet).items():
        torch.testing.assert_close(cross_attention.weights(ours.unet)[name], weight, rtol=1e-6, atol=1e-7)


def test_merging_rounds_once(tiny_sd, own):
    half = open_pipeline(tiny_sd, device="cpu", dtype="float16")
    full = open_pipeline(tiny_sd, device="cpu", dtype="float32")
    for pipe in (half, full):
        apply_erasure(pipe, own.erasure)
    assert not getattr(half.unet, "peft_config", None)
    for name, weight in cross_attention.weights(full.unet).items():
        error = (cross_attention.weights(half.unet)[name].float() - weight).norm() / weight.norm()
        assert error < 4e-4  # one rounding to 11 bits, and the LoRA's factors'


def test_an_adapter_draws_what_merged_weights_draw(tiny_sd, own):
    merged, adapted = (open_pipeline(tiny_sd, device="cpu") for _ in range(2))
    apply_erasure(merged, own.erasure)
    apply_erasure(adapted, own.erasure, merge=False)
    assert adapted.get_active_adapters() == [ADAPTER]
    assert abs(draw(merged) - draw(adapted)).max() <= 2  # of 255: the last bits


def test_a_lora_elsewhere_is_merged_too(tiny_sd, own, foreign):
    """An erasure may change any layer, not the cross-attention's alone."""
    pipe, lora = (open_pipeline(tiny_sd, device="cpu") for _ in range(2))
    before = bits(pipe)
    lora.load_lora_weights(foreign)
    tensors = load_file(foreign / LORA_FILE)
    apply_erasure(pipe, Erasure(of_base(read_erasure(own.erasure), ""), {}, tensors))
    assert abs(draw(pipe) - draw(lora)).max() <= 2
    before_merging, merged = changed_weights(pipe)
    assert before_merging.keys() == merged.keys()
    assert any("attn1.to_q" in name for name in merged)
    assert any("ff.net.2" in name for name in merged)
    remove_erasure(pipe)
    assert_same_bits(bits(pipe), before)


# --- and takes back


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("is_foreign", [False, True])
def test_removing_gives_the_same_bits_and_images(tiny_sd, own, foreign, dtype, merge, is_foreign):
    """A LoRA of the user's own, loaded before, works while the erasure is there and after it."""
    pipe = open_pipeline(tiny_sd, device="cpu", dtype=dtype)
    if is_foreign:
        pipe.load_lora_weights(foreign, adapter_name="style")
    weights, images = bits(pipe), draw(pipe)
    for _ in range(2):
        apply_erasure(pipe, own.erasure, merge=merge)
        assert abs(draw(pipe) - images).mean() > 3
        remove_erasure(pipe)
        assert_same_bits(bits(pipe), weights)
        assert (draw(pipe) == images).all()
        assert getattr(pipe.unet, "peft_config", {}).keys() == ({"style"} if is_foreign else set())
    if is_foreign:
        assert pipe.get_active_adapters() == ["style"]
        pipe.unload_lora_weights()
        fresh = open_pipeline(tiny_sd, device="cpu", dtype=dtype)
        assert_same_bits(bits(pipe), bits(fresh))


@pytest.mark.parametrize("merge", [True, False])
def test_a_lora_of_the_users_works_on_top_of_an_erasure(tiny_sd, own, foreign, merge):
    """Loaded before the erasure or after it, it draws the same, and it does draw."""
    before, after, alone = (open_pipeline(tiny_sd, device="cpu") for _ in range(3))
    before.load_lora_weights(foreign, adapter_name="style")
    apply_erasure(before, own.erasure, merge=merge)
    apply_erasure(after, own.erasure)
    after.load_lora_weights(foreign, adapter_name="style")
    apply_erasure(alone, own.erasure)
    assert abs(draw(before) - draw(after)).max() <= (0 if merge else 2)
    assert abs(draw(before) - draw(alone)).mean() > 3
    remove_erasure(after)  # also when the user's came after it
    assert after.get_active_adapters() == ["style"]
    after.unload_lora_weights()
    assert_same_bits(bits(after), bits(open_pipeline(tiny_sd, device="cpu")))


def test_an_adapter_that_the_user_has_switched_off_stays_off(tiny_sd, own, foreign):
    pipe = open_pipeline(tiny_sd, device="cpu")
    plain = draw(pipe)
    pipe.load_lora_weights(foreign, adapter_name="style")
    pipe.set_adapters("style", 0.5)
    half = draw(pipe)
    for merge in (True, False):
        apply_erasure(pipe, own.erasure, merge=merge)
        remove_erasure(pipe)
        assert (draw(pipe) == half).all()
    pipe.disable_lora()
    assert (draw(pipe) == plain).all()
    apply_erasure(pipe, own.erasure)
    remove_erasure(pipe)
    assert (draw(pipe) == plain).all()


# --- what is refused


def test_an_erasure_on_top_of_one_is_refused(tiny_sd, own):
    pipe = open_pipeline(tiny_sd, device="cpu")
    apply_erasure(pipe, own.erasure)
    erased = bits(pipe)
    with pytest.raises(ArtifactError, match=r"erasure: this pipeline carries an erasure already; remove that one"):
        apply_erasure(pipe, own.erasure)
    assert_same_bits(bits(pipe), erased)
    remove_erasure(pipe)


def test_removing_without_one_is_refused(tiny_sd, own):
    pipe = open_pipeline(tiny_sd, device="cpu")
    for _ in range(2):
        with pytest.raises(ArtifactError, match="this pipeline carries no erasure that could be removed"):
            remove_erasure(pipe)
        with pytest.raises(ArtifactError, match="this pipeline carries no erasure"):
            changed_weights(pipe)
        apply_erasure(pipe, own.erasure)
        remove_erasure(pipe)


def test_an_erasure_of_another_base_model_is_refused_in_float32(tiny_sd, own):
    """The same shapes and names, other weights: on them the erasure would do something else."""
    pipe = open_pipeline(tiny_sd, device="cpu")
    next(iter(cross_attention.weights(pipe.unet).values()))[0, 0] += 1e-3
    before = bits(pipe)
    with pytest.raises(ArtifactError, match=r"made for data/models/tiny-sd, whose weights differ from this pipeline's"):
        apply_erasure(pipe, own.erasure)
    assert_same_bits(bits(pipe), before)
    with pytest.raises(ArtifactError, match="no erasure"):
        remove_erasure(pipe)


def wrong_names(erasure):
    return replace(erasure, overlay={f"x{name}": weight for name, weight in erasure.overlay.items()})


def wrong_shape(erasure):
    name, weight = next(iter(erasure.overlay.items()))
    return replace(erasure, overlay={**erasure.overlay, name: weight[:, :8]})


def wrong_lora_shape(erasure):
    name, weight = list(erasure.adapter.items())[-1]
    return replace(erasure, adapter={**erasure.adapter, name: weight[:, :1].repeat(1, 3)})


def half_a_lora(erasure):
    name = next(iter(erasure.adapter))
    return replace(erasure, adapter={other: each for other, each in erasure.adapter.items() if other != name})


def lora_of_nothing(erasure):
    return replace(erasure, adapter={f"unet.nowhere.lora_{end}.weight": torch.zeros(2, 2) for end in "AB"})


def wrong_base(erasure):
    return replace(erasure, about=of_base(erasure, "0" * 64))


@pytest.mark.parametrize("is_foreign", [False, True])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (wrong_names, r"erasure: found x\S+\.to_[kv]\.weight, which this model does not have"),
        (wrong_shape, r"erasure: \S+\.to_[kv]\.weight: found shape \[\d+, 8\], this model has \["),
        (wrong_base, r"erasure: made for data/models/tiny-sd, whose weights differ"),
        (wrong_lora_shape, r"erasure/adapter/pytorch_lora_weights.safetensors: cannot be loaded: "),
        (half_a_lora, r"erasure/adapter/pytorch_lora_weights.safetensors: "),
        (lora_of_nothing, r"erasure/adapter/pytorch_lora_weights.safetensors: "),
    ],
)
def test_a_failing_apply_leaves_the_pipeline_as_it_was(tiny_sd, own, foreign, spoil, said, is_foreign):
    pipe = open_pipeline(tiny_sd, device="cpu")
    if is_foreign:
        pipe.load_lora_weights(foreign, adapter_name="style")
    weights, images = bits(pipe), draw(pipe)
    for merge in (True, False):
        with pytest.raises(ArtifactError, match=said) as caught:
            apply_erasure(pipe, spoil(read_erasure(own.erasure)), merge=merge)
        assert "\n" not in str(caught.value)
        assert "/tmp" not in str(caught.value).removeprefix(str(own.erasure))
        assert_same_bits(bits(pipe), weights)
        assert (draw(pipe) == images).all()
        assert getattr(pipe.unet, "peft_config", {}).keys() == ({"style"} if is_foreign else set())
    apply_erasure(pipe, own.erasure)  # and it can carry one
    assert abs(draw(pipe) - images).mean() > 3


# --- the one file that does it elsewhere


def test_single_file_by_the_formula_of_comfyui_and_a1111(run, tmp_path, tiny_sd, own):
    run("export", "airplane", "--format", "single-file", "--out", tmp_path / "out")
    file = load_file(tmp_path / "out" / "erase-airplane.safetensors")
    pipe = open_pipeline(tiny_sd, device="cpu")
    base = {name: weight.clone() for name, weight in cross_attention.weights(pipe.unet).items()}
    apply_erasure(pipe, own.erasure)
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
