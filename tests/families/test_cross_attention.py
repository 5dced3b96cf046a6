"""Cross-attention layers are found by what they are, in every shape of UNet."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from peft import LoraConfig

from realera.families.cross_attention import cross_attention, patch, swapped, weights
from realera.settings.errors import ArtifactError, ModelError


def small_unet(**options) -> UNet2DConditionModel:
    defaults = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "cross_attention_dim": 12,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return UNet2DConditionModel(**defaults | options)


def full_unet_on_meta(**options) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(sample_size=64, **options)


def test_stable_diffusion_1_has_32_matrices():
    unet = full_unet_on_meta(cross_attention_dim=768, attention_head_dim=8)
    layers = cross_attention(unet)
    assert len(layers) == 32
    assert sum(layer.weight.numel() for layer in layers.values()) == 19_169_280
    assert {layer.in_features for layer in layers.values()} == {768}


def test_stable_diffusion_2_has_other_heads_and_linear_projections():
    unet = full_unet_on_meta(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True)
    assert len(cross_attention(unet)) == 32
    assert {layer.in_features for layer in cross_attention(unet).values()} == {1024}


def test_several_transformer_layers_a_block():
    unet = small_unet(transformer_layers_per_block=3)
    assert sum("transformer_blocks.2" in name for name in cross_attention(unet)) > 0


def test_the_embedded_model(pipe):
    names = list(cross_attention(pipe.unet))
    assert names
    assert all(name.endswith((".attn2.to_k", ".attn2.to_v")) for name in names)
    assert set(weights(pipe.unet)) <= set(pipe.unet.state_dict())


@pytest.mark.parametrize(
    "unet",
    [
        UNet2DModel(sample_size=8, block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1,
                    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D")),
        torch.nn.Linear(2, 2),
    ],
)  # fmt: skip
def test_a_model_without_cross_attention(unet):
    with pytest.raises(ModelError, match=r"no cross-attention"):
        cross_attention(unet)


def test_patch_and_swap():
    unet = small_unet()
    own = {name: weight.clone() for name, weight in weights(unet).items()}
    other = {name: weight + 1 for name, weight in own.items()}
    pointers = {name: weight.data_ptr() for name, weight in weights(unet).items()}
    with swapped(unet, other):
        assert all(torch.equal(weights(unet)[name], other[name]) for name in own)
    assert {name: weight.data_ptr() for name, weight in weights(unet).items()} == pointers
    assert all(torch.equal(weights(unet)[name], own[name]) for name in own)
    patch(unet, other)
    assert all(torch.equal(weights(unet)[name], other[name]) for name in own)


def test_swap_ends_also_after_an_error():
    unet = small_unet()
    own = {name: weight.clone() for name, weight in weights(unet).items()}
    with pytest.raises(RuntimeError), swapped(unet, {name: weight + 1 for name, weight in own.items()}):
        raise RuntimeError
    assert all(torch.equal(weights(unet)[name], own[name]) for name in own)


def test_a_lora_is_looked_through():
    unet = small_unet()
    names = list(weights(unet))
    unet.add_adapter(LoraConfig(r=2, target_modules=[name.removesuffix(".weight") for name in names]))
    assert list(weights(unet)) == names


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w: w.pop(next(iter(w))), "no weight"),
        (lambda w: w.update(strange=torch.zeros(1)), "found strange"),
        (lambda w: w.update({next(iter(w)): torch.zeros(2, 2)}), r"found shape \[2, 2\]"),
    ],
)
def test_weights_of_another_model_are_refused_and_change_nothing(change, problem):
    unet = small_unet()
    own = {name: weight.clone() for name, weight in weights(unet).items()}
    new = {name: weight + 1 for name, weight in own.items()}
    change(new)
    with pytest.raises(ArtifactError, match=rf"patch.safetensors: .*{problem}"):
        patch(unet, new, "patch.safetensors")
    assert all(torch.equal(weights(unet)[name], own[name]) for name in own)
